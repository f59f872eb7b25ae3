/** The store of one worklet: every method is one request, or a few where it says so. */
import { KVNamespace } from "./namespace.js";
import { Transaction } from "./transaction.js";
import type { Transport } from "./transport.js";
import type { ConditionOptions, DefaultOption, Entry, EntryInfo, JsonValue, ListOptions, NamespaceOption, Page, ScanOptions, SetOptions, Stats, TtlOption, WatchOptions } from "./types.js";
import { Watch } from "./watch.js";
/** Data as `exportData` gives it: by namespace, then by key. */
export type ExportedData = Record<string, Record<string, JsonValue>>;
/**
 * Keys with JSON values, in namespaces. Made by `createWorkletKVStore`.
 *
 * Every method may throw KVValidationError, KVPermissionError, KVQuotaError and KVConnectionError. An increment, an
 * append, a transaction or a conditional change that broke off is never sent again: the error's `outcomeUnknown` says so.
 */
export declare class WorkletKVStore {
    #private;
    /** Of all methods that name none. */
    readonly defaultNamespace: string;
    constructor(transport: Transport, namespace: string);
    /** The value of a key, as the type that you say it has. A missing key gives `default`, else null. */
    get<T = JsonValue>(key: string, options?: NamespaceOption): Promise<T | null>;
    get<T = JsonValue, D = T>(key: string, options: NamespaceOption & DefaultOption<D>): Promise<T | D>;
    /** Value, version and times of a key; null: there is none. */
    entry<T = JsonValue>(key: string, options?: NamespaceOption): Promise<Entry<T> | null>;
    /** Whether there is such a key: tells a stored null from a missing key. */
    has(key: string, options?: NamespaceOption): Promise<boolean>;
    /** The key's new version; null: the condition did not hold. Without a ttl an earlier expiry is cleared. */
    set<T = JsonValue>(key: string, value: T, options?: NamespaceOption & SetOptions): Promise<number | null>;
    /** Whether the key was there (and had the version asked for). */
    delete(key: string, options?: NamespaceOption & ConditionOptions): Promise<boolean>;
    /** The values of several keys, under their keys; a missing one is null. Up to 1000 of them are of one moment. */
    mget<T = JsonValue>(keys: Iterable<string>, options?: NamespaceOption): Promise<Record<string, T | null>>;
    /** Sets at most 1000 keys, all or none. */
    mset<T = JsonValue>(entries: Readonly<Record<string, T>> | ReadonlyMap<string, T>, options?: NamespaceOption & TtlOption): Promise<void>;
    /** Entries whose keys begin with the prefix, a page of them, in the byte order of their keys. */
    list<T = JsonValue>(prefix: string | undefined, options: NamespaceOption & ListOptions & {
        values: true;
    }): Promise<Page<Entry<T>>>;
    list(prefix?: string, options?: NamespaceOption & ListOptions): Promise<Page>;
    /** All entries whose keys begin with the prefix, fetched page by page. */
    scan<T = JsonValue>(prefix: string | undefined, options: NamespaceOption & ScanOptions & {
        values: true;
    }): AsyncGenerator<Entry<T>, void, undefined>;
    scan(prefix?: string, options?: NamespaceOption & ScanOptions): AsyncGenerator<EntryInfo, void, undefined>;
    /** The names of the namespaces that hold something, in byte order. */
    listNamespaces(): Promise<string[]>;
    /** Empties a namespace, the store's own if none is named; the number of keys deleted. */
    clear(namespace?: string): Promise<number>;
    /** Empties every namespace; the number of keys deleted. */
    clearAll(): Promise<number>;
    /** The number after adding to it, exactly in decimals; a missing key counts as 0. A ttl counts only where it is new. */
    increment(key: string, delta?: number, options?: NamespaceOption & TtlOption): Promise<number>;
    /**
     * Adds a string to a string, or anything as one element to a list; the new length. A missing key becomes a string of
     * a string, and a list of anything else. A ttl counts only where the key is new.
     */
    append<T = JsonValue>(key: string, value: T, options?: NamespaceOption & TtlOption): Promise<number>;
    /** How full the store is. */
    getStats(): Promise<Stats>;
    /** All values of a namespace, or of all, without versions and expiries. Read page by page, so not of one moment. */
    exportData(namespace?: string): Promise<ExportedData>;
    /** Sets what `exportData` gave; the number of keys. All is checked first, then sent in parts of up to 1000 keys. */
    importData(data: Readonly<Record<string, Readonly<Record<string, JsonValue>>>>): Promise<number>;
    /** Several operations that are done together or not at all: add steps, then `commit()`. */
    transaction(): Transaction;
    /**
     * Changes of keys with the prefix, as they happen, across lost connections and restarts of the store.
     *
     *     for await (const change of store.watch("user:")) console.log(change.key, change.value);
     *
     * Of several changes of one key between two looks the newest is told.
     */
    watch<T = JsonValue>(prefix?: string, options?: NamespaceOption & WatchOptions): Watch<T>;
    /** `watch` of every namespace. */
    watchAll<T = JsonValue>(prefix?: string, options?: WatchOptions): Watch<T>;
    /** One namespace, as a collection whose values have one type. */
    namespace<T = JsonValue>(name: string): KVNamespace<T>;
}
