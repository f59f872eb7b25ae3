/** What is sent, and what is made of answers that are errors or none. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { KVError, KVPermissionError, KVQuotaError, KVValidationError, createWorkletKVStore } from "../dist/index.js";
import { answer, refusal, serve } from "./scriptedserver.js";
import { SECRET, open, scripted, scriptedWith, thrown } from "./scriptedstores.js";

test("a call is one POST with named arguments and the token", async () => {
  const { store, requests } = await scripted([200, { version: 7 }]);
  assert.equal(await store.set("k", { a: 1 }, { ttl: 5 }), 7);
  assert.equal(requests.length, 1);
  const [{ url, method, headers, body }] = requests;
  assert.equal(`${method} ${url}`, "POST /rest/v1/rpc/kv_set");
  assert.equal(headers.authorization, "Bearer token");
  assert.equal(headers["content-type"], "application/json");
  assert.equal(headers.apikey, undefined);
  assert.deepEqual(body, { p_namespace: "default", p_key: "k", p_value: '{"a":1}', p_ttl: 5 });
});

test("a worklet's id, the publishable key and a path in the url are sent", async () => {
  const server = await serve([200, true]);
  open.push(server);
  const id = "2f6c1a52-9b1e-4a53-8f6a-0b9a4a1f3c11";
  const store = createWorkletKVStore(id, { url: `${server.url}/base/`, token: "t", apiKey: "public" });
  assert.equal(await store.has("k"), true);
  assert.equal(server.requests[0].url, "/base/rest/v1/rpc/kv_has");
  assert.equal(server.requests[0].headers.apikey, "public");
  assert.equal(server.requests[0].body.p_worklet_id, id);
});

test("connections are used again", async () => {
  const { store, requests } = await scripted([200, true]);
  for (let at = 0; at < 40; at++) await store.has("k");
  const ports = new Set(requests.map(({ port }) => port));
  assert.ok(ports.size <= 2, `${ports.size} connections`); // fetch may open a second one before the first is idle
});

const ANY = {
  entry: (store) => store.entry("k"),
  has: (store) => store.has("k"),
  set: (store) => store.set("k", 1),
  delete: (store) => store.delete("k"),
  mget: (store) => store.mget(["k"]),
  list: (store) => store.list(),
  listNamespaces: (store) => store.listNamespaces(),
  clear: (store) => store.clear(),
  increment: (store) => store.increment("k"),
  append: (store) => store.append("k", 1),
  getStats: (store) => store.getStats(),
  transaction: (store) => store.transaction().get("k").commit(),
  watch: (store) => store.watch("", { cursor: "0" }).next(),
};

for (const [name, call] of Object.entries(ANY)) {
  test(`${name} tells an answer that is none`, async () => {
    const bad = ["", "<html>", "{", '"text"', "[5]", '{"version":"7","value":{},"entries":5,"committed":5}'];
    for (const garbage of bad) {
      const { store } = await scripted([200, garbage]);
      assert.match((await thrown(call(store), KVError)).message, /too old/, garbage);
    }
  });
}

const MEANINGS = [
  [400, "22023", "KV_INVALID", KVValidationError],
  [400, "22P02", null, KVValidationError],
  [400, "22P05", null, KVValidationError],
  [400, "23514", null, KVValidationError],
  [413, "54000", "KV_TOO_LARGE", KVValidationError],
  [413, "54000", "KV_QUOTA_BYTES", KVQuotaError],
  [413, "54000", "KV_QUOTA_KEYS", KVQuotaError],
  [400, "22023", "KV_NOT_A_NUMBER", KVValidationError],
  [403, "42501", "KV_REVOKED", KVPermissionError],
  [401, "PGRST301", null, KVPermissionError],
  [401, "PGRST302", null, KVPermissionError],
  [401, "PGRST303", null, KVPermissionError],
  [404, "PGRST202", null, KVError],
  [404, null, null, KVError],
  [302, null, null, KVError],
  [500, "XX000", null, KVError],
];

for (const [status, code, hint, kind] of MEANINGS) {
  test(`HTTP ${status} ${code} ${hint} is a ${kind.name}`, async () => {
    const { store, requests } = await scripted([status, refusal(code, hint, hint ? "The store's own words." : `"${SECRET}" is bad`)]);
    const error = await thrown(store.get("k"), kind);
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    assert.equal(error.hint, hint);
    if (hint) assert.equal(error.message, "The store's own words.");
    assert.equal(requests.length, 1);
  });
}

test("a hint that is not the store's own is not passed on", async () => {
  const { store } = await scripted([400, refusal("22P02", `Perhaps you meant ${SECRET}`, SECRET)]);
  assert.equal((await thrown(store.get("k"), KVValidationError)).hint, null);
});

test("a rate that outlasts the timeout is told at once", async () => {
  const { store, requests } = await scripted([429, refusal("KV429", "KV_RATE", "Too many."), { "retry-after": "60" }]);
  assert.equal((await thrown(store.get("k"), KVQuotaError)).hint, "KV_RATE");
  assert.equal(requests.length, 1);
});

for (const [how, send] of Object.entries({ "Node's own client": undefined, fetch: globalThis.fetch })) {
  test(`${how}: a value is not redirected to another address`, async () => {
    const { server: other } = await scripted([200, true]);
    const elsewhere = [307, "", { location: `${other.url}/rest/v1/rpc/kv_has` }];
    const { store } = await scriptedWith({ fetch: send }, elsewhere);
    assert.match((await thrown(store.has("k"), KVError)).message, /no store at this address/);
    assert.equal(other.requests.length, 0);
  });
}

test("a request over 16 MiB is refused before it is sent", async () => {
  const { store, requests } = await scripted([200, 1]);
  const large = Object.fromEntries(Array.from({ length: 17 }, (_, at) => [`k${at}`, "x".repeat(1_000_000)]));
  assert.equal((await thrown(store.mset(large), KVValidationError)).hint, "KV_TOO_LARGE");
  assert.equal(requests.length, 0);
});

test("hundreds of calls at once share some connections, and one that waits in a queue does not run out of time", async () => {
  let open = 0;
  let most = 0;
  const { store } = await scriptedWith({ timeout: 1.5 }, (response) => {
    most = Math.max(most, ++open);
    setTimeout(() => (open--, answer(response, 200, true)), 150);
  });
  const found = await Promise.all(Array.from({ length: 400 }, (_, at) => store.has(`k${at}`)));
  assert.equal(found.length, 400);
  assert.ok(most > 8 && most <= 32, `${most} at once`);
});

test("a large import goes in parts", async () => {
  const { store, requests } = await scripted([200, 1]);
  const large = Object.fromEntries(Array.from({ length: 17 }, (_, at) => [`k${at}`, '"'.repeat(500_000)]));
  assert.equal(await store.importData({ n: large }), 17);
  assert.ok(requests.length > 3);
  assert.equal(requests.flatMap(({ body }) => Object.keys(JSON.parse(body.p_entries))).length, 17);
});
