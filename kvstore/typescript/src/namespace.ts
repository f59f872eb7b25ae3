/** One namespace of a store, as a collection. */

import type { WorkletKVStore } from "./store.js";
import { Transaction } from "./transaction.js";
import type { Transport } from "./transport.js";
import type {
  ConditionOptions,
  DefaultOption,
  Entry,
  EntryInfo,
  ListOptions,
  Page,
  ScanOptions,
  SetOptions,
  TtlOption,
  WatchOptions,
} from "./types.js";
import { checkNamespace } from "./values.js";
import type { Watch } from "./watch.js";

/**
 * What the store does, in one namespace and with values of one type.
 *
 *     const prefs = store.namespace<string>("prefs");
 *     await prefs.set("theme", "dark");
 *     for await (const [key, value] of prefs) console.log(key, value);
 */
export class KVNamespace<T> {
  readonly name: string;
  readonly #store: WorkletKVStore;
  readonly #transport: Transport;
  readonly #here: { namespace: string };

  constructor(store: WorkletKVStore, transport: Transport, name: string) {
    this.name = checkNamespace(name);
    this.#here = { namespace: this.name };
    this.#store = store;
    this.#transport = transport;
  }

  get(key: string): Promise<T | null>;
  get<D>(key: string, options: DefaultOption<D>): Promise<T | D>;
  get(key: string, options: Partial<DefaultOption<unknown>> = {}): Promise<unknown> {
    return this.#store.get<T>(key, { ...options, ...this.#here });
  }

  entry(key: string): Promise<Entry<T> | null> {
    return this.#store.entry<T>(key, this.#here);
  }

  has(key: string): Promise<boolean> {
    return this.#store.has(key, this.#here);
  }

  set(key: string, value: T, options: SetOptions = {}): Promise<number | null> {
    return this.#store.set(key, value, { ...options, ...this.#here });
  }

  delete(key: string, options: ConditionOptions = {}): Promise<boolean> {
    return this.#store.delete(key, { ...options, ...this.#here });
  }

  mget(keys: Iterable<string>): Promise<Record<string, T | null>> {
    return this.#store.mget<T>(keys, this.#here);
  }

  mset(entries: Readonly<Record<string, T>> | ReadonlyMap<string, T>, options: TtlOption = {}): Promise<void> {
    return this.#store.mset(entries, { ...options, ...this.#here });
  }

  list(prefix: string | undefined, options: ListOptions & { values: true }): Promise<Page<Entry<T>>>;
  list(prefix?: string, options?: ListOptions): Promise<Page>;
  list(prefix = "", options: ListOptions = {}): Promise<Page> {
    return this.#store.list(prefix, { ...options, ...this.#here });
  }

  scan(
    prefix: string | undefined,
    options: ScanOptions & { values: true },
  ): AsyncGenerator<Entry<T>, void, undefined>;
  scan(prefix?: string, options?: ScanOptions): AsyncGenerator<EntryInfo, void, undefined>;
  scan(prefix = "", options: ScanOptions = {}): AsyncGenerator<EntryInfo, void, undefined> {
    return this.#store.scan(prefix, { ...options, ...this.#here });
  }

  async *keys(prefix = ""): AsyncGenerator<string, void, undefined> {
    for await (const entry of this.scan(prefix)) yield entry.key;
  }

  async *entries(prefix = ""): AsyncGenerator<[key: string, value: T], void, undefined> {
    for await (const { key, value } of this.scan(prefix, { values: true })) yield [key, value];
  }

  [Symbol.asyncIterator](): AsyncGenerator<[key: string, value: T], void, undefined> {
    return this.entries();
  }

  /** The number of keys, counted by reading them page by page. */
  async count(prefix = ""): Promise<number> {
    let count = 0;
    for await (const _ of this.scan(prefix)) count++;
    return count;
  }

  clear(): Promise<number> {
    return this.#store.clear(this.name);
  }

  increment(key: string, delta = 1, options: TtlOption = {}): Promise<number> {
    return this.#store.increment(key, delta, { ...options, ...this.#here });
  }

  append(key: string, value: unknown, options: TtlOption = {}): Promise<number> {
    return this.#store.append(key, value, { ...options, ...this.#here });
  }

  transaction(): Transaction {
    return new Transaction(this.#transport, this.name);
  }

  watch(prefix = "", options: WatchOptions = {}): Watch<T> {
    return this.#store.watch<T>(prefix, { ...options, ...this.#here });
  }
}
