/** Several operations that are done together, or not at all. */
import type { Transport } from "./transport.js";
import type { Entry, JsonValue, NamespaceOption, TtlOption } from "./types.js";
export interface SetResult {
    version: number;
}
export interface DeleteResult {
    deleted: boolean;
}
export interface IncrementResult {
    value: number;
    version: number;
}
export interface AppendResult {
    /** Characters of a string, elements of a list. */
    length: number;
    version: number;
}
/**
 * Collects steps; `commit` sends them. Each step sees what the ones before it did.
 *
 *     const [, moved] = await store.transaction().check("a", version).increment("a", -30).commit();
 */
export declare class Transaction<Results extends readonly unknown[] = []> {
    #private;
    constructor(transport: Transport, namespace: string);
    get length(): number;
    /** Go on only if the key has this version; null: only if there is no such key. */
    check(key: string, version: number | null, options?: NamespaceOption): Transaction<[...Results, null]>;
    set<T = JsonValue>(key: string, value: T, options?: NamespaceOption & TtlOption): Transaction<[...Results, SetResult]>;
    delete(key: string, options?: NamespaceOption): Transaction<[...Results, DeleteResult]>;
    increment(key: string, delta?: number, options?: NamespaceOption & TtlOption): Transaction<[...Results, IncrementResult]>;
    append<T = JsonValue>(key: string, value: T, options?: NamespaceOption & TtlOption): Transaction<[...Results, AppendResult]>;
    get<T = JsonValue>(key: string, options?: NamespaceOption): Transaction<[...Results, Entry<T> | null]>;
    /** The steps' results, in their order. Throws KVConflictError when a check does not hold. It can be sent once. */
    commit(): Promise<Results>;
}
