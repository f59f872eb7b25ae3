/**
 * Client of Flow's key-value store. Inside a worklet it needs no set-up:
 *
 *     import { createWorkletKVStore } from "@flow/kvstore";
 *     const store = createWorkletKVStore();
 *     await store.set("greeting", { text: "hello" });
 */
import { WorkletKVStore } from "./store.js";
import type { StoreOptions } from "./types.js";
export { KVConflictError, KVConnectionError, KVError, KVPermissionError, KVQuotaError, KVValidationError, } from "./errors.js";
export type { KVNamespace } from "./namespace.js";
export { WorkletKVStore, type ExportedData } from "./store.js";
export type { AppendResult, DeleteResult, IncrementResult, SetResult, Transaction } from "./transaction.js";
export type { Change, Entry, EntryInfo, JsonValue, ListOptions, NamespaceOption, Page, SetOptions, Stats, StoreOptions, TokenProvider, TtlOption, WatchOptions, } from "./types.js";
export type { Watch } from "./watch.js";
/**
 * The store of a worklet. Sends nothing yet.
 *
 * `workletId`: only a person's token must name one; a worklet's token tells its own. Throws KVValidationError for bad
 * options, and KVError (code "KV_NO_ADDRESS") where no url is known.
 */
export declare function createWorkletKVStore(workletId?: string | null, options?: StoreOptions): WorkletKVStore;
