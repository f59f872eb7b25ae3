/** What the store's methods take and give back. */

/** What can be stored: anything that JSON can say. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [name: string]: JsonValue };

/** A key without its value. */
export interface EntryInfo {
  readonly key: string;
  /** Grows with every change within a worklet; never used twice. */
  readonly version: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
  /** null: it stays until it is deleted. */
  readonly expiresAt: Date | null;
}

/** A key with its value. */
export interface Entry<T = JsonValue> extends EntryInfo {
  readonly value: T;
}

/** Some of the entries, in the byte order of their keys. */
export interface Page<E = EntryInfo> {
  readonly entries: E[];
  /** For the next page; null at the end. */
  readonly cursor: string | null;
}

/** How full the store is. */
export interface Stats {
  readonly keys: number;
  /** Of namespaces, keys and values. */
  readonly bytes: number;
  readonly namespaces: number;
  /** null: there is no limit. */
  readonly maxKeys: number | null;
  readonly maxBytes: number | null;
  /** null: nothing was ever changed. */
  readonly changedAt: Date | null;
}

interface ChangeBase {
  readonly namespace: string;
  readonly key: string;
  readonly version: number;
  readonly updatedAt: Date;
  /** `watch(prefix, {cursor: change.cursor})` goes on after this change. */
  readonly cursor: string;
  /** Changes before this one were missed (the cursor was older than a day): forget what you know. All that is there
   * now follows, beginning with this one. */
  readonly reset: boolean;
}

/** What a key became. Its `value` is null when it was deleted or has expired. */
export type Change<T = JsonValue> =
  | (ChangeBase & { readonly deleted: false; readonly value: T })
  | (ChangeBase & { readonly deleted: true; readonly value: null });

export interface NamespaceOption {
  /** Instead of the store's own. */
  namespace?: string | undefined;
}

export interface TtlOption {
  /** Seconds until the key expires; at most ten years. */
  ttl?: number | undefined;
}

export interface DefaultOption<D> {
  /** What a missing key gives; else null. */
  default: D;
}

export interface ConditionOptions {
  /** Only if the key has this version. */
  ifVersion?: number | undefined;
}

export interface SetOptions extends TtlOption, ConditionOptions {
  /** Only if there is no such key. */
  onlyIfAbsent?: boolean | undefined;
}

export interface ListOptions {
  /** Entries a page, 1 to 1000. */
  limit?: number | undefined;
  /** Of the page before. */
  cursor?: string | null | undefined;
  /** Whether entries come with their values. */
  values?: boolean | undefined;
}

export interface ScanOptions {
  values?: boolean | undefined;
}

export interface WatchOptions {
  /** Go on after the change that had this cursor; "0" begins with all that is there; else from now on. */
  cursor?: string | undefined;
  /** Ends the iteration, without an error. */
  signal?: AbortSignal | undefined;
}

/** A token, or a function that gives it, asked before each request. */
export type TokenProvider = string | (() => string | Promise<string>);

export interface StoreOptions {
  /** Of the gateway, or of a Supabase project. Default: FLOW_KV_URL. */
  url?: string | undefined;
  token?: TokenProvider | undefined;
  /** A file with the token, read anew when it changes. Default: FLOW_KV_TOKEN_FILE. */
  tokenFile?: string | undefined;
  /** Supabase's publishable key. Default: FLOW_KV_APIKEY. */
  apiKey?: string | undefined;
  /** Of all methods that name none. Default: "default". */
  namespace?: string | undefined;
  /** Seconds that a call may take, its retries included. Default: 10. */
  timeout?: number | undefined;
  /** Makes the requests, through a proxy say. Default: Node's own client in Node, elsewhere the global fetch. */
  fetch?: typeof fetch | undefined;
}

interface EntryAnswer {
  key: string;
  value?: unknown;
  version: number;
  created_at: string;
  updated_at: string;
  expires_at: string | null;
}

interface PageAnswer {
  entries: EntryAnswer[];
  cursor: string | null;
}

interface StatsAnswer {
  keys: number;
  bytes: number;
  namespaces: number;
  max_keys?: number | null;
  max_bytes?: number | null;
  changed_at?: string | null;
}

/** What has another shape than the store's answers throws TypeError, here and below. */
export function entryOf<T>(told: unknown): Entry<T> {
  const entry = told as EntryAnswer;
  if (entry.value === undefined) throw new TypeError("an entry without a value");
  return { ...infoOf(entry), value: entry.value as T };
}

export function pageOf<T>(told: unknown, values: boolean): Page<Entry<T>> | Page {
  const { entries, cursor } = told as PageAnswer;
  if (cursor !== null) is<string>(cursor, "string");
  return values ? { entries: entries.map((one) => entryOf<T>(one)), cursor } : { entries: entries.map(infoOf), cursor };
}

export function statsOf(told: unknown): Stats {
  const { keys, bytes, namespaces, max_keys, max_bytes, changed_at } = told as StatsAnswer;
  return {
    keys: is<number>(keys, "number"),
    bytes: is<number>(bytes, "number"),
    namespaces: is<number>(namespaces, "number"),
    maxKeys: max_keys ?? null,
    maxBytes: max_bytes ?? null,
    changedAt: changed_at == null ? null : timeOf(changed_at),
  };
}

export function timeOf(told: unknown): Date {
  const time = new Date(is<string>(told, "string"));
  if (Number.isNaN(time.getTime())) throw new TypeError("no time");
  return time;
}

export function is<T>(told: unknown, type: "boolean" | "number" | "string"): T {
  if (typeof told !== type) throw new TypeError(`no ${type}`);
  return told as T;
}

function infoOf(told: EntryAnswer): EntryInfo {
  return {
    key: is<string>(told.key, "string"),
    version: is<number>(told.version, "number"),
    createdAt: timeOf(told.created_at),
    updatedAt: timeOf(told.updated_at),
    expiresAt: told.expires_at == null ? null : timeOf(told.expires_at),
  };
}
