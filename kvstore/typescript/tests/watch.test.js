/** Watching a server that drops, dawdles, answers at once and forgets. */

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { KVPermissionError, KVValidationError, createWorkletKVStore } from "../dist/index.js";
import { drop, refusal, serve } from "./scriptedserver.js";

const ends = [];
afterEach(() => Promise.all(ends.splice(0).map((end) => end())));

async function scripted(...script) {
  const server = await serve(...script);
  ends.push(server.close);
  return { server, store: createWorkletKVStore(null, { url: server.url, token: "t", timeout: 20 }) };
}

const time = "2026-11-21T14:00:00.000001+00:00";
const change = (key, version, value = version) => ({ namespace: "default", key, version, deleted: false, value, updated_at: time });
const looks = (changes, cursor, reset = false) => [200, { changes, cursor, reset }];

async function taken(watch, most) {
  const found = [];
  for await (const one of watch) if (found.push(one) === most) break;
  return found;
}

const cursors = ({ requests }) => requests.map(({ body }) => body.p_cursor);

test("changes come in order, each with the cursor to go on after it", async () => {
  const { server, store } = await scripted(looks([change("a", 3), change("b", 5)], "5"), looks([change("c", 9)], "9"));
  const found = await taken(store.watch("p", { cursor: "0" }), 3);
  assert.deepEqual(found.map(({ key, value, cursor }) => [key, value, cursor]), [["a", 3, "3"], ["b", 5, "5"], ["c", 9, "9"]]);
  assert.equal(found[0].updatedAt.toISOString(), "2026-11-21T14:00:00.000Z");
  assert.deepEqual(server.requests[0].body, { p_namespace: "default", p_prefix: "p", p_cursor: "0", p_wait: 20 });
  assert.equal(server.requests[1].body.p_cursor, "5");
});

test("where cursors are no versions, what came with a change comes again after it", async () => {
  const { store } = await scripted(looks([change("a", 3), change("b", 5)], "5-9"));
  const found = await taken(store.watch("", { cursor: "2-9" }), 2);
  assert.deepEqual(found.map(({ cursor }) => cursor), ["2-9", "5-9"]);
  const { store: another } = await scripted(looks([change("a", 300), change("b", 500)], "5"));
  const others = await taken(another.watch("", { cursor: "2" }), 2);
  assert.deepEqual(others.map(({ cursor }) => cursor), ["2", "5"]);
});

test("without a cursor it begins now", async () => {
  const { server, store } = await scripted(looks([], "41"), looks([change("a", 42)], "42"));
  const watch = await store.watch().ready();
  assert.equal(server.requests.length, 1);
  assert.equal(server.requests[0].body.p_wait, undefined);
  assert.equal((await taken(watch, 1))[0].version, 42);
  assert.deepEqual(cursors(server), [undefined, "41"]);
});

test("it goes on where it was after lost connections, restarts, overload and a late token", async () => {
  const troubles = [drop, [503, refusal("PGRST000")], [502, "<html>"], [429, refusal("KV429", "KV_RATE"), { "retry-after": "0.01" }], [500, refusal("XX000")], drop];
  const { server, store } = await scripted(looks([change("a", 1)], "1"), ...troubles, looks([change("b", 2)], "2"));
  const found = await taken(store.watch("", { cursor: "0" }), 2);
  assert.deepEqual(found.map(({ key }) => key), ["a", "b"]);
  assert.deepEqual(new Set(cursors(server).slice(1)), new Set(["1"]));
});

test("a token that was not renewed in time is waited for, a revoked one is told", async () => {
  const expired = [401, refusal("PGRST303")];
  const server = await serve(expired, expired, expired, expired, looks([change("a", 1)], "1"), [403, refusal("42501", "KV_REVOKED")]);
  ends.push(server.close);
  const watch = createWorkletKVStore(null, { url: server.url, token: () => "t" }).watch("", { cursor: "0" });
  assert.equal((await watch.next()).value.key, "a");
  await assert.rejects(watch.next(), (error) => error instanceof KVPermissionError && error.hint === "KV_REVOKED");
  assert.deepEqual(await watch.next(), { done: true, value: undefined });
});

test("a reset is told with the first change after it", async () => {
  const { store } = await scripted(looks([], "7-9", true), looks([change("a", 8), change("b", 9)], "9"), looks([change("c", 10)], "10"));
  const found = await taken(store.watch("", { cursor: "1" }), 3);
  assert.deepEqual(found.map(({ reset }) => reset), [true, false, false]);
});

test("an answer at once makes it wait by itself", async () => {
  const { server, store } = await scripted(looks([], "1"));
  const stop = new AbortController();
  const watching = taken(store.watch("", { cursor: "1", signal: stop.signal }));
  const began = performance.now();
  while (server.requests.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(performance.now() - began > 400, "it asked without a pause");
  stop.abort();
  assert.deepEqual(await watching, []);
});

test("a signal ends a look that waits, without an error, and one that was aborted before asks nothing", async () => {
  const { server, store } = await scripted(() => undefined);
  const stop = new AbortController();
  const watching = taken(store.watch("", { cursor: "1", signal: stop.signal }));
  while (server.requests.length < 1) await new Promise((resolve) => setTimeout(resolve, 5));
  stop.abort();
  assert.deepEqual(await watching, []);
  assert.deepEqual(await taken(store.watch("", { signal: AbortSignal.abort() })), []);
  assert.equal(server.requests.length, 1);
});

test("return() ends a next() that waits", async () => {
  const { server, store } = await scripted(() => undefined);
  const watch = store.watch("", { cursor: "1" });
  const next = watch.next();
  while (server.requests.length < 1) await new Promise((resolve) => setTimeout(resolve, 5));
  await watch.return();
  assert.deepEqual(await next, { done: true, value: undefined });
});

test("several next() at once get one change each, in order", async () => {
  const { store } = await scripted(looks([change("a", 1)], "1"), looks([change("b", 2), change("c", 3)], "3"));
  const watch = store.watch("", { cursor: "0" });
  const found = await Promise.all([watch.next(), watch.next(), watch.next()]);
  assert.deepEqual(found.map(({ value }) => value.key), ["a", "b", "c"]);
});

test("bad arguments are refused before anything is sent", async () => {
  const { server, store } = await scripted(looks([], "1"));
  assert.throws(() => store.watch("\0"), KVValidationError);
  assert.throws(() => store.watch("", { cursor: 5 }), KVValidationError);
  assert.throws(() => store.watch("", { namespace: "" }), KVValidationError);
  assert.equal(server.requests.length, 0);
});

test("watchAll names no namespace", async () => {
  const { server, store } = await scripted(looks([change("a", 1)], "1"));
  await taken(store.watchAll("", { cursor: "0" }), 1);
  assert.ok(!("p_namespace" in server.requests[0].body));
});
