/** Stores of scripted servers, for one test each. */

import assert from "node:assert/strict";
import { afterEach } from "node:test";
import { KVError, createWorkletKVStore } from "../dist/index.js";
import { serve } from "./scriptedserver.js";

/** Servers that are closed after the test. */
export const open = [];
/** Stands in values and tokens; no error may tell it. */
export const SECRET = "hunter2";

afterEach(() => Promise.all(open.splice(0).map((server) => server.close())));

export function scripted(...script) {
  return scriptedWith({}, ...script);
}

export async function scriptedWith(options, ...script) {
  const server = await serve(...script);
  open.push(server);
  const store = createWorkletKVStore(undefined, { url: server.url, token: "token", timeout: 20, ...options });
  return { server, store, requests: server.requests };
}

export async function freePort() {
  const server = await serve();
  await server.close();
  return Number(new URL(server.url).port);
}

/** The error that the promise is rejected with. */
export async function thrown(promise, kind) {
  const error = await promise.then(
    (value) => assert.fail(`gave ${JSON.stringify(value)}`),
    (reason) => reason,
  );
  assert.equal(error.constructor, kind, `${error.name}: ${error.message}`);
  assert.ok(error instanceof KVError);
  assert.equal(error.name, kind.name);
  for (const words of [error.message, error.stack, JSON.stringify(error)]) assert.ok(!words.includes(SECRET), words);
  return error;
}
