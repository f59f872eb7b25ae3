/** The store of one worklet: every method is one request, or a few where it says so. */

import { invalid } from "./errors.js";
import { KVNamespace } from "./namespace.js";
import { Transaction } from "./transaction.js";
import type { Effect, Transport } from "./transport.js";
import type {
  ConditionOptions,
  DefaultOption,
  Entry,
  EntryInfo,
  JsonValue,
  ListOptions,
  NamespaceOption,
  Page,
  ScanOptions,
  SetOptions,
  Stats,
  TtlOption,
  WatchOptions,
} from "./types.js";
import { entryOf, is, pageOf, statsOf } from "./types.js";
import * as values from "./values.js";
import { Watch } from "./watch.js";

/** A part of an import: escaping doubles it at worst, and a request may have 16 MiB. */
const PART_LENGTH = 2 * 1024 * 1024;

/** Data as `exportData` gives it: by namespace, then by key. */
export type ExportedData = Record<string, Record<string, JsonValue>>;

/**
 * Keys with JSON values, in namespaces. Made by `createWorkletKVStore`.
 *
 * Every method may throw KVValidationError, KVPermissionError, KVQuotaError and KVConnectionError. An increment, an
 * append, a transaction or a conditional change that broke off is never sent again: the error's `outcomeUnknown` says so.
 */
export class WorkletKVStore {
  /** Of all methods that name none. */
  readonly defaultNamespace: string;
  readonly #transport: Transport;

  constructor(transport: Transport, namespace: string) {
    this.#transport = transport;
    this.defaultNamespace = values.checkNamespace(namespace);
  }

  /** The value of a key, as the type that you say it has. A missing key gives `default`, else null. */
  get<T = JsonValue>(key: string, options?: NamespaceOption): Promise<T | null>;
  get<T = JsonValue, D = T>(key: string, options: NamespaceOption & DefaultOption<D>): Promise<T | D>;
  async get(key: string, options: NamespaceOption & Partial<DefaultOption<unknown>> = {}): Promise<unknown> {
    const entry = await this.entry(key, options);
    return entry === null ? (options.default ?? null) : entry.value;
  }

  /** Value, version and times of a key; null: there is none. */
  async entry<T = JsonValue>(key: string, options: NamespaceOption = {}): Promise<Entry<T> | null> {
    return this.#call("kv_get", this.#at(key, options), "read", (told) => (told === null ? null : entryOf<T>(told)));
  }

  /** Whether there is such a key: tells a stored null from a missing key. */
  async has(key: string, options: NamespaceOption = {}): Promise<boolean> {
    return this.#call("kv_has", this.#at(key, options), "read", (told) => is<boolean>(told, "boolean"));
  }

  /** The key's new version; null: the condition did not hold. Without a ttl an earlier expiry is cleared. */
  async set<T = JsonValue>(key: string, value: T, options: NamespaceOption & SetOptions = {}): Promise<number | null> {
    const { ifVersion, onlyIfAbsent } = options;
    const named = {
      ...this.#at(key, options),
      value: values.encode(value),
      ttl: ttlOf(options),
      if_version: ifVersion == null ? undefined : values.checkVersion(ifVersion),
      only_if_absent: onlyIfAbsent || undefined,
    };
    if (named.if_version !== undefined && named.only_if_absent) {
      throw invalid("ifVersion and onlyIfAbsent exclude each other.");
    }
    const effect = named.if_version === undefined && !named.only_if_absent ? "repeatable" : "once";
    return this.#call("kv_set", named, effect, (told) => {
      const { version } = told as { version: number | null };
      return version === null ? null : is<number>(version, "number");
    });
  }

  /** Whether the key was there (and had the version asked for). */
  async delete(key: string, options: NamespaceOption & ConditionOptions = {}): Promise<boolean> {
    const version = options.ifVersion == null ? undefined : values.checkVersion(options.ifVersion);
    const named = { namespace: this.#named(options), keys: [values.checkKey(key)], if_version: version };
    const effect = version === undefined ? "counted" : "once";
    return this.#call("kv_delete", named, effect, (told) => is<number>(told, "number") > 0);
  }

  /** The values of several keys, under their keys; a missing one is null. Up to 1000 of them are of one moment. */
  async mget<T = JsonValue>(keys: Iterable<string>, options: NamespaceOption = {}): Promise<Record<string, T | null>> {
    const asked = [...new Set(values.checkKeys(keys))];
    const namespace = this.#named(options);
    const found = new Map<string, T>();
    for (let at = 0; at < asked.length; at += values.MAX_ENTRIES) {
      const named = { namespace, keys: asked.slice(at, at + values.MAX_ENTRIES) };
      const entries = await this.#call("kv_mget", named, "read", (told) =>
        (told as unknown[]).map((one) => entryOf<T>(one)),
      );
      for (const { key, value } of entries) found.set(key, value);
    }
    // Not by assignment: a key may be called __proto__.
    return Object.fromEntries(asked.map((key) => [key, found.has(key) ? (found.get(key) as T) : null]));
  }

  /** Sets at most 1000 keys, all or none. */
  async mset<T = JsonValue>(
    entries: Readonly<Record<string, T>> | ReadonlyMap<string, T>,
    options: NamespaceOption & TtlOption = {},
  ): Promise<void> {
    const pairs = values.checkEntries(entries);
    const named = { namespace: this.#named(options), entries: values.objectText(pairs), ttl: ttlOf(options) };
    if (pairs.length > values.MAX_ENTRIES) throw invalid(`At most ${values.MAX_ENTRIES} keys can be set at once.`);
    if (pairs.length > 0) await this.#call("kv_mset", named, "repeatable", () => undefined);
  }

  /** Entries whose keys begin with the prefix, a page of them, in the byte order of their keys. */
  list<T = JsonValue>(
    prefix: string | undefined,
    options: NamespaceOption & ListOptions & { values: true },
  ): Promise<Page<Entry<T>>>;
  list(prefix?: string, options?: NamespaceOption & ListOptions): Promise<Page>;
  async list(prefix = "", options: NamespaceOption & ListOptions = {}): Promise<Page> {
    const named = {
      namespace: this.#named(options),
      prefix: values.checkPrefix(prefix),
      cursor: options.cursor == null ? undefined : values.checkCursor(options.cursor),
      limit: options.limit === undefined ? undefined : values.checkLimit(options.limit),
      values: options.values || undefined,
    };
    return this.#call("kv_list", named, "read", (told) => pageOf(told, options.values === true));
  }

  /** All entries whose keys begin with the prefix, fetched page by page. */
  scan<T = JsonValue>(
    prefix: string | undefined,
    options: NamespaceOption & ScanOptions & { values: true },
  ): AsyncGenerator<Entry<T>, void, undefined>;
  scan(prefix?: string, options?: NamespaceOption & ScanOptions): AsyncGenerator<EntryInfo, void, undefined>;
  async *scan(prefix = "", options: NamespaceOption & ScanOptions = {}): AsyncGenerator<EntryInfo, void, undefined> {
    let cursor: string | null = null;
    do {
      const page: Page = await this.list(prefix, { ...options, cursor, limit: values.MAX_ENTRIES });
      yield* page.entries;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  /** The names of the namespaces that hold something, in byte order. */
  async listNamespaces(): Promise<string[]> {
    return this.#call("kv_list_namespaces", {}, "read", (told) =>
      (told as unknown[]).map((name) => is<string>(name, "string")),
    );
  }

  /** Empties a namespace, the store's own if none is named; the number of keys deleted. */
  async clear(namespace: string = this.defaultNamespace): Promise<number> {
    const named = { namespace: values.checkNamespace(namespace) };
    return this.#call("kv_clear", named, "counted", (told) => is<number>(told, "number"));
  }

  /** Empties every namespace; the number of keys deleted. */
  async clearAll(): Promise<number> {
    return this.#call("kv_clear", { namespace: null }, "counted", (told) => is<number>(told, "number"));
  }

  /** The number after adding to it, exactly in decimals; a missing key counts as 0. A ttl counts only where it is new. */
  async increment(key: string, delta = 1, options: NamespaceOption & TtlOption = {}): Promise<number> {
    const named = { ...this.#at(key, options), delta: values.checkDelta(delta), ttl: ttlOf(options) };
    return this.#call("kv_increment", named, "once", (told) => is<number>(changed(told).value, "number"));
  }

  /**
   * Adds a string to a string, or anything as one element to a list; the new length. A missing key becomes a string of
   * a string, and a list of anything else. A ttl counts only where the key is new.
   */
  async append<T = JsonValue>(key: string, value: T, options: NamespaceOption & TtlOption = {}): Promise<number> {
    const named = { ...this.#at(key, options), value: values.encode(value), ttl: ttlOf(options) };
    return this.#call("kv_append", named, "once", (told) => is<number>(changed(told).length, "number"));
  }

  /** How full the store is. */
  async getStats(): Promise<Stats> {
    return this.#call("kv_stats", {}, "read", statsOf);
  }

  /** All values of a namespace, or of all, without versions and expiries. Read page by page, so not of one moment. */
  async exportData(namespace?: string): Promise<ExportedData> {
    const names = namespace === undefined ? await this.listNamespaces() : [values.checkNamespace(namespace)];
    const data: [string, Record<string, JsonValue>][] = [];
    for (const name of names) {
      const pairs: [string, JsonValue][] = [];
      for await (const { key, value } of this.scan("", { namespace: name, values: true })) pairs.push([key, value]);
      if (pairs.length > 0 || namespace !== undefined) data.push([name, Object.fromEntries(pairs)]);
    }
    return Object.fromEntries(data);
  }

  /** Sets what `exportData` gave; the number of keys. All is checked first, then sent in parts of up to 1000 keys. */
  async importData(data: Readonly<Record<string, Readonly<Record<string, JsonValue>>>>): Promise<number> {
    if (!values.isPlain(data)) throw invalid("The data must be an object of namespaces, each an object of keys and values.");
    const all = Object.entries(data).map(
      ([name, entries]) => [values.checkNamespace(name), values.checkEntries(entries)] as const,
    );
    let count = 0;
    for (const [namespace, pairs] of all) {
      for (const part of partsOf(pairs)) {
        await this.#call("kv_mset", { namespace, entries: values.objectText(part) }, "repeatable", () => undefined);
        count += part.length;
      }
    }
    return count;
  }

  /** Several operations that are done together or not at all: add steps, then `commit()`. */
  transaction(): Transaction {
    return new Transaction(this.#transport, this.defaultNamespace);
  }

  /**
   * Changes of keys with the prefix, as they happen, across lost connections and restarts of the store.
   *
   *     for await (const change of store.watch("user:")) console.log(change.key, change.value);
   *
   * Of several changes of one key between two looks the newest is told.
   */
  watch<T = JsonValue>(prefix = "", options: NamespaceOption & WatchOptions = {}): Watch<T> {
    return new Watch<T>(this.#transport, this.#named(options), prefix, options);
  }

  /** `watch` of every namespace. */
  watchAll<T = JsonValue>(prefix = "", options: WatchOptions = {}): Watch<T> {
    return new Watch<T>(this.#transport, undefined, prefix, options);
  }

  /** One namespace, as a collection whose values have one type. */
  namespace<T = JsonValue>(name: string): KVNamespace<T> {
    return new KVNamespace<T>(this, this.#transport, name);
  }

  #named(options: NamespaceOption): string {
    return options.namespace == null ? this.defaultNamespace : values.checkNamespace(options.namespace);
  }

  #at(key: string, options: NamespaceOption): { namespace: string; key: string } {
    return { namespace: this.#named(options), key: values.checkKey(key) };
  }

  #call<T>(name: string, named: Record<string, unknown>, effect: Effect, read: (told: unknown) => T): Promise<T> {
    return this.#transport.call(name, named, effect, read);
  }
}

function ttlOf(options: TtlOption): number | undefined {
  return options.ttl == null ? undefined : values.checkTtl(options.ttl);
}

function changed(told: unknown): { version: number; value?: unknown; length?: unknown } {
  is<number>((told as { version: unknown }).version, "number");
  return told as { version: number };
}

function* partsOf(pairs: [string, string][]): Generator<[string, string][]> {
  let part: [string, string][] = [];
  let length = 0;
  for (const pair of pairs) {
    if (part.length === values.MAX_ENTRIES || length > PART_LENGTH) {
      yield part;
      [part, length] = [[], 0];
    }
    part.push(pair);
    length += pair[0].length + pair[1].length;
  }
  if (part.length > 0) yield part;
}
