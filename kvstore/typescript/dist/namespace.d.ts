/** One namespace of a store, as a collection. */
import type { WorkletKVStore } from "./store.js";
import { Transaction } from "./transaction.js";
import type { Transport } from "./transport.js";
import type { ConditionOptions, DefaultOption, Entry, EntryInfo, ListOptions, Page, ScanOptions, SetOptions, TtlOption, WatchOptions } from "./types.js";
import type { Watch } from "./watch.js";
/**
 * What the store does, in one namespace and with values of one type.
 *
 *     const prefs = store.namespace<string>("prefs");
 *     await prefs.set("theme", "dark");
 *     for await (const [key, value] of prefs) console.log(key, value);
 */
export declare class KVNamespace<T> {
    #private;
    readonly name: string;
    constructor(store: WorkletKVStore, transport: Transport, name: string);
    get(key: string): Promise<T | null>;
    get<D>(key: string, options: DefaultOption<D>): Promise<T | D>;
    entry(key: string): Promise<Entry<T> | null>;
    has(key: string): Promise<boolean>;
    set(key: string, value: T, options?: SetOptions): Promise<number | null>;
    delete(key: string, options?: ConditionOptions): Promise<boolean>;
    mget(keys: Iterable<string>): Promise<Record<string, T | null>>;
    mset(entries: Readonly<Record<string, T>> | ReadonlyMap<string, T>, options?: TtlOption): Promise<void>;
    list(prefix: string | undefined, options: ListOptions & {
        values: true;
    }): Promise<Page<Entry<T>>>;
    list(prefix?: string, options?: ListOptions): Promise<Page>;
    scan(prefix: string | undefined, options: ScanOptions & {
        values: true;
    }): AsyncGenerator<Entry<T>, void, undefined>;
    scan(prefix?: string, options?: ScanOptions): AsyncGenerator<EntryInfo, void, undefined>;
    keys(prefix?: string): AsyncGenerator<string, void, undefined>;
    entries(prefix?: string): AsyncGenerator<[key: string, value: T], void, undefined>;
    [Symbol.asyncIterator](): AsyncGenerator<[key: string, value: T], void, undefined>;
    /** The number of keys, counted by reading them page by page. */
    count(prefix?: string): Promise<number>;
    clear(): Promise<number>;
    increment(key: string, delta?: number, options?: TtlOption): Promise<number>;
    append(key: string, value: unknown, options?: TtlOption): Promise<number>;
    transaction(): Transaction;
    watch(prefix?: string, options?: WatchOptions): Watch<T>;
}
