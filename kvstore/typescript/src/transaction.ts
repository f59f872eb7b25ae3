/** Several operations that are done together, or not at all. */

import { KVConflictError, KVError, invalid } from "./errors.js";
import type { Transport } from "./transport.js";
import type { Entry, JsonValue, NamespaceOption, TtlOption } from "./types.js";
import { entryOf, is } from "./types.js";
import { MAX_ENTRIES, checkDelta, checkKey, checkNamespace, checkTtl, checkVersion, encode, objectText } from "./values.js";

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

interface TransactionAnswer {
  committed: boolean;
  failed: number;
  results: unknown[];
}

/**
 * Collects steps; `commit` sends them. Each step sees what the ones before it did.
 *
 *     const [, moved] = await store.transaction().check("a", version).increment("a", -30).commit();
 */
export class Transaction<Results extends readonly unknown[] = []> {
  readonly #transport: Transport;
  readonly #namespace: string;
  readonly #steps: string[] = [];
  readonly #kinds: string[] = [];
  #sent = false;

  constructor(transport: Transport, namespace: string) {
    this.#transport = transport;
    this.#namespace = namespace;
  }

  get length(): number {
    return this.#steps.length;
  }

  /** Go on only if the key has this version; null: only if there is no such key. */
  check(key: string, version: number | null, options: NamespaceOption = {}): Transaction<[...Results, null]> {
    const wanted = version === null ? "null" : String(checkVersion(version));
    return this.#add("check", key, options, [["version", wanted]]);
  }

  set<T = JsonValue>(
    key: string,
    value: T,
    options: NamespaceOption & TtlOption = {},
  ): Transaction<[...Results, SetResult]> {
    return this.#add("set", key, options, [["value", encode(value)]]);
  }

  delete(key: string, options: NamespaceOption = {}): Transaction<[...Results, DeleteResult]> {
    return this.#add("delete", key, options, []);
  }

  increment(
    key: string,
    delta = 1,
    options: NamespaceOption & TtlOption = {},
  ): Transaction<[...Results, IncrementResult]> {
    return this.#add("increment", key, options, [["delta", JSON.stringify(checkDelta(delta))]]);
  }

  append<T = JsonValue>(
    key: string,
    value: T,
    options: NamespaceOption & TtlOption = {},
  ): Transaction<[...Results, AppendResult]> {
    return this.#add("append", key, options, [["value", encode(value)]]);
  }

  get<T = JsonValue>(key: string, options: NamespaceOption = {}): Transaction<[...Results, Entry<T> | null]> {
    return this.#add("get", key, options, []);
  }

  /** The steps' results, in their order. Throws KVConflictError when a check does not hold. It can be sent once. */
  async commit(): Promise<Results> {
    this.#checkUnsent();
    this.#sent = true;
    const operations = `[${this.#steps.join(",")}]`;
    const answer = await this.#transport.call("kv_transaction", { operations }, "once", (told) => this.#read(told));
    if (!answer.committed) {
      throw new KVConflictError("A check of the transaction did not hold; nothing was changed.", answer.failed);
    }
    return answer.results as unknown as Results;
  }

  #add<Longer extends readonly unknown[]>(
    kind: string,
    key: string,
    options: NamespaceOption & TtlOption,
    fields: [string, string][],
  ): Transaction<Longer> {
    this.#checkUnsent();
    if (this.#steps.length === MAX_ENTRIES) throw invalid(`A transaction may have ${MAX_ENTRIES} steps.`);
    const namespace = options.namespace === undefined ? this.#namespace : checkNamespace(options.namespace);
    const life: [string, string][] = options.ttl == null ? [] : [["ttl", String(checkTtl(options.ttl))]];
    const place = { op: kind, namespace, key: checkKey(key) };
    const words = Object.entries(place).map(([name, text]): [string, string] => [name, JSON.stringify(text)]);
    this.#steps.push(objectText([...words, ...fields, ...life]));
    this.#kinds.push(kind);
    return this as unknown as Transaction<Longer>;
  }

  #checkUnsent(): void {
    if (this.#sent) throw new KVError("This transaction was committed already: begin another one.");
  }

  #read(told: unknown): TransactionAnswer {
    const answer = told as TransactionAnswer;
    if (!is<boolean>(answer.committed, "boolean")) return { ...answer, failed: is<number>(answer.failed, "number") };
    if (answer.results.length !== this.#kinds.length) throw new TypeError("not a result for each step");
    const results = answer.results.map((one, at) => (this.#kinds[at] === "get" && one !== null ? entryOf(one) : one));
    return { ...answer, results };
  }
}
