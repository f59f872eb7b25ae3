/** Values, keys and the other arguments: checked before anything is sent, in the gateway's words. */
export declare const MAX_ENTRIES = 1000;
/** The value as compact JSON. Throws KVValidationError. */
export declare function encode(value: unknown): string;
/** Whether the text has at most so many bytes of UTF-8. */
export declare function fits(text: string, bytes: number): boolean;
export declare function checkKey(key: unknown): string;
export declare function checkKeys(keys: unknown): string[];
export declare function checkNamespace(namespace: unknown): string;
export declare function checkPrefix(prefix: unknown): string;
export declare function checkCursor(cursor: unknown): string;
export declare function checkTtl(ttl: unknown): number;
export declare function checkVersion(version: unknown): number;
export declare function checkLimit(limit: unknown): number;
export declare function checkDelta(delta: unknown): number;
/** Keys and values to write, out of an object or a Map: checked keys, values as JSON text. */
export declare function checkEntries(entries: unknown): [string, string][];
/** A JSON object of names and values that are JSON text already. */
export declare function objectText(pairs: Iterable<readonly [string, string]>): string;
/** An object as a literal makes it, from any realm: class instances are none, as they would not come back as such. */
export declare function isPlain(value: unknown): value is Record<string, unknown>;
