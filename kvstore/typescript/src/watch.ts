/** Watching for changes: one look after the other, across lost connections. */

import { KVConnectionError, KVError, KVPermissionError } from "./errors.js";
import type { Transport } from "./transport.js";
import { pauseAfter, sleep } from "./transport.js";
import type { Change, WatchOptions } from "./types.js";
import { timeOf } from "./types.js";
import { checkCursor, checkPrefix } from "./values.js";

const WAIT = 20; // seconds, asked of the gateway, which allows 25
const FIRST_POLL = 0.25; // where the answer comes at once (Supabase)
const LONGEST_POLL = 2;

interface ChangeAnswer {
  namespace: string;
  key: string;
  version: number;
  deleted: boolean;
  value?: unknown;
  updated_at: string;
}

interface WatchAnswer {
  changes: ChangeAnswer[];
  cursor: string;
  reset?: boolean;
}

/** Changes as they happen, until `return()`, the end of a `for await`, or the signal. */
export class Watch<T> implements AsyncIterableIterator<Change<T>> {
  readonly #transport: Transport;
  readonly #named: Record<string, unknown>;
  readonly #stop = new AbortController();
  readonly #forget: () => void;
  #begun: Promise<string>;
  #cursor = "";
  #reset = false;
  #poll = FIRST_POLL;
  #known: Change<T>[] = [];
  #turn: Promise<unknown> = Promise.resolve();

  constructor(transport: Transport, namespace: string | undefined, prefix: string, options: WatchOptions) {
    this.#transport = transport;
    this.#named = { namespace, prefix: checkPrefix(prefix) };
    const signal = options.signal;
    const abort = (): void => this.#stop.abort();
    signal?.addEventListener("abort", abort, { once: true });
    this.#forget = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) abort();
    this.#begun = options.cursor === undefined ? this.#now() : Promise.resolve(checkCursor(options.cursor));
    this.#begun.catch(() => undefined); // next() tells it
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Resolves when "from now on" has begun: every later change will be told. */
  async ready(): Promise<this> {
    await this.#begun;
    return this;
  }

  next(): Promise<IteratorResult<Change<T>, undefined>> {
    const taken = this.#turn.then(() => this.#take());
    this.#turn = taken.catch(() => undefined);
    return taken;
  }

  return(): Promise<IteratorResult<Change<T>, undefined>> {
    this.#end();
    return Promise.resolve({ done: true, value: undefined });
  }

  async #take(): Promise<IteratorResult<Change<T>, undefined>> {
    try {
      while (!this.#stop.signal.aborted) {
        const change = this.#known.shift();
        if (change !== undefined) return { done: false, value: change };
        this.#cursor ||= await this.#begun;
        await this.#look();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) {
        this.#end();
        throw error;
      }
    }
    this.#end();
    return { done: true, value: undefined };
  }

  #end(): void {
    this.#stop.abort();
    this.#forget();
  }

  #now(): Promise<string> {
    const options = { signal: this.#stop.signal };
    return this.#transport.call("kv_watch", this.#named, "read", (told) => checked(told).cursor, options);
  }

  /** One request, however long it takes to be answered. A look that is broken off changes nothing. */
  async #look(): Promise<void> {
    const began = performance.now();
    const answer = await this.#asked();
    const changes = this.#read(answer);
    this.#known.push(...changes);
    this.#reset = (this.#reset || answer.reset === true) && changes.length === 0;
    this.#cursor = answer.cursor;
    if (changes.length > 0 || performance.now() - began >= FIRST_POLL * 1000) {
      this.#poll = FIRST_POLL;
    } else {
      await sleep(this.#poll, this.#stop.signal);
      this.#poll = Math.min(this.#poll * 1.5, LONGEST_POLL);
    }
  }

  async #asked(): Promise<WatchAnswer> {
    const named = { ...this.#named, cursor: this.#cursor, wait: WAIT };
    const signal = this.#stop.signal;
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#transport.call("kv_watch", named, "read", checked, { wait: WAIT, signal });
      } catch (error) {
        if (signal.aborted || !this.#passes(error)) throw error;
      }
      await sleep(pauseAfter(attempt) * 2, signal);
    }
  }

  /** Whether the store will answer again: it is away, or overrun, or the token's renewal is late. */
  #passes(error: unknown): boolean {
    if (error instanceof KVPermissionError) return error.code === "PGRST303" && this.#transport.tokens.renewable;
    if (error instanceof KVConnectionError) return true;
    return error instanceof KVError && (error.status === 429 || error.status === 500);
  }

  #read({ changes, cursor, reset }: WatchAnswer): Change<T>[] {
    const last = changes.length - 1;
    // Where cursors are versions, each change gets its own. Elsewhere what came with it comes again after a resume.
    const precise = /^\d+$/.test(cursor) && Number(cursor) >= (changes[last]?.version ?? 0);
    const anew = this.#reset || reset === true;
    return changes.map((told, at) => {
      const here = at === last ? cursor : precise ? String(told.version) : this.#cursor;
      return changeOf<T>(told, here, anew && at === 0);
    });
  }
}

function changeOf<T>(told: ChangeAnswer, cursor: string, reset: boolean): Change<T> {
  const { namespace, key, version, deleted } = told;
  const common = { namespace, key, version, updatedAt: timeOf(told.updated_at), cursor, reset };
  return deleted ? { ...common, deleted, value: null } : { ...common, deleted, value: told.value as T };
}

function checked(told: unknown): WatchAnswer {
  const answer = told as WatchAnswer;
  if (typeof answer.cursor !== "string" || !Array.isArray(answer.changes)) throw new TypeError("no changes");
  return answer;
}
