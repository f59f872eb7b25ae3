/**
 * Client of Flow's key-value store. Inside a worklet it needs no set-up:
 *
 *     import { createWorkletKVStore } from "@flow/kvstore";
 *     const store = createWorkletKVStore();
 *     await store.set("greeting", { text: "hello" });
 */

import { tokenSource, variable } from "./environment.js";
import { KVError, invalid } from "./errors.js";
import { WorkletKVStore } from "./store.js";
import { Transport } from "./transport.js";
import type { StoreOptions } from "./types.js";

export {
  KVConflictError,
  KVConnectionError,
  KVError,
  KVPermissionError,
  KVQuotaError,
  KVValidationError,
} from "./errors.js";
export type { KVNamespace } from "./namespace.js";
export { WorkletKVStore, type ExportedData } from "./store.js";
export type { AppendResult, DeleteResult, IncrementResult, SetResult, Transaction } from "./transaction.js";
export type {
  Change,
  Entry,
  EntryInfo,
  JsonValue,
  ListOptions,
  NamespaceOption,
  Page,
  SetOptions,
  Stats,
  StoreOptions,
  TokenProvider,
  TtlOption,
  WatchOptions,
} from "./types.js";
export type { Watch } from "./watch.js";

const DEFAULT_TIMEOUT = 10; // seconds

/**
 * The store of a worklet. Sends nothing yet.
 *
 * `workletId`: only a person's token must name one; a worklet's token tells its own. Throws KVValidationError for bad
 * options, and KVError (code "KV_NO_ADDRESS") where no url is known.
 */
export function createWorkletKVStore(workletId?: string | null, options: StoreOptions = {}): WorkletKVStore {
  const url = options.url ?? variable("FLOW_KV_URL");
  if (url === undefined) {
    const words = "There is no address of a store: FLOW_KV_URL is not set (Flow sets it in every worklet); pass url.";
    throw new KVError(words, { code: "KV_NO_ADDRESS" });
  }
  const given = options.token !== undefined || options.tokenFile !== undefined;
  const file = given ? options.tokenFile : variable("FLOW_KV_TOKEN_FILE");
  const transport = new Transport(url, tokenSource(options.token, file), {
    timeout: options.timeout ?? DEFAULT_TIMEOUT,
    apiKey: options.apiKey ?? variable("FLOW_KV_APIKEY"),
    workletId: checkId(workletId ?? variable("FLOW_WORKLET_ID")),
    fetch: options.fetch,
  });
  return new WorkletKVStore(transport, options.namespace ?? "default");
}

function checkId(id: string | undefined): string | undefined {
  if (id === undefined || /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id)) return id;
  throw invalid("A worklet's id must be a UUID.");
}
