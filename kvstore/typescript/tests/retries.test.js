/** What is sent again, and what never is: the server drops, is away, is busy, dawdles. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { KVConnectionError, KVError, KVPermissionError, KVQuotaError, createWorkletKVStore } from "../dist/index.js";
import { drop, refusal, serveAt } from "./scriptedserver.js";
import { SECRET, freePort, open, scripted, scriptedWith, thrown } from "./scriptedstores.js";

const VERSION = [200, { version: 7 }];
const AWAY = [503, refusal("PGRST000")];
const NOT_BEGUN = [503, refusal("PGRST000", "KV_NOT_BEGUN", "The database cannot be reached.")];
const BUSY = [500, refusal("40001")];
const RATE = [429, refusal("KV429", "KV_RATE", "Too many."), { "retry-after": "0.05" }];

for (const [name, trouble] of Object.entries({ drop, away: AWAY, busy: BUSY, rate: RATE })) {
  test(`a read and a repeatable write are sent again after: ${name}`, async () => {
    const { store, requests } = await scripted(trouble, trouble, [200, null], trouble, VERSION);
    assert.equal(await store.get("k"), null);
    assert.equal(requests.length, 3);
    assert.equal(await store.set("k", 1), 7);
    assert.equal(requests.length, 5);
  });
}

const ONCE = {
  increment: (store) => store.increment("k"),
  append: (store) => store.append("k", SECRET),
  transaction: (store) => store.transaction().set("k", SECRET).commit(),
  "set if a version": (store) => store.set("k", SECRET, { ifVersion: 1 }),
  "set if absent": (store) => store.set("k", SECRET, { onlyIfAbsent: true }),
  "delete if a version": (store) => store.delete("k", { ifVersion: 1 }),
};

for (const [name, call] of Object.entries(ONCE)) {
  test(`${name} is never sent again once it may have arrived`, async () => {
    for (const trouble of [drop, AWAY, [502, "<html>"], [504, ""]]) {
      const { store, requests } = await scripted(trouble);
      const error = await thrown(call(store), KVConnectionError);
      assert.equal(error.outcomeUnknown, true);
      assert.equal(requests.length, 1);
    }
  });

  test(`${name} is sent again where nothing was begun`, async () => {
    const { store, requests } = await scripted(NOT_BEGUN, NOT_BEGUN, [200, { version: 1, value: 1, length: 1, committed: true, results: [{}] }]);
    await call(store).catch((error) => assert.match(error.message, /too old/)); // a deletion's answer is a number
    assert.equal(requests.length, 3);
  });

  test(`${name} is sent again where nothing was done`, async () => {
    const { store, requests } = await scripted(BUSY, RATE, [200, { version: 1, value: 1, length: 1, committed: true, results: [{}] }]);
    await call(store).catch((error) => assert.match(error.message, /too old/)); // a deletion's answer is a number
    assert.equal(requests.length, 3);
  });
}

test("nothing is unknown where nothing was begun", async () => {
  const { store } = await scriptedWith({ timeout: 0.5 }, NOT_BEGUN);
  const error = await thrown(store.increment("k"), KVConnectionError);
  assert.deepEqual([error.outcomeUnknown, error.message], [false, "The database cannot be reached."]);
});

for (const [status, body, kind] of [
  [403, refusal("42501", "KV_REVOKED"), KVPermissionError],
  [413, refusal("54000", "KV_QUOTA_KEYS"), KVQuotaError],
  [401, refusal("PGRST303"), KVPermissionError],
  [500, refusal("XX000"), KVError],
]) {
  test(`a refusal after a lost answer tells that the change may have been made: ${body.code}`, async () => {
    const { store } = await scripted(drop, [status, body], [status, body], drop, [status, body]);
    assert.equal((await thrown(store.set("k", SECRET), kind)).outcomeUnknown, true);
    assert.equal((await thrown(store.set("k", SECRET), kind)).outcomeUnknown, false);
    assert.equal((await thrown(store.get("k"), kind)).outcomeUnknown, false);
  });
}

for (const [name, call, counted] of [
  ["delete", (store) => store.delete("k"), true],
  ["clear", (store) => store.clear(), 2],
  ["clearAll", (store) => store.clearAll(), 2],
]) {
  test(`${name}: none deleted is not believed after an answer was lost`, async () => {
    const { store } = await scripted([200, 0], drop, [200, 0], drop, [200, 2]);
    assert.equal(Number(await call(store)), 0);
    const error = await thrown(call(store), KVConnectionError);
    assert.equal(error.outcomeUnknown, true);
    assert.match(error.message, /whether this call deleted it/);
    assert.equal(await call(store), counted);
  });
}

test("reads have no unknown outcome, repeatable writes have when time is up", async () => {
  const { server, store } = await scriptedWith({ timeout: 1 }, drop);
  assert.equal((await thrown(store.get("k"), KVConnectionError)).outcomeUnknown, false);
  assert.equal((await thrown(store.set("k", SECRET), KVConnectionError)).outcomeUnknown, true);
  assert.ok(server.requests.length >= 2);
});

for (const [how, send] of Object.entries({ "Node's own client": undefined, fetch: globalThis.fetch })) {
  test(`${how}: everything waits for a store that is not there yet`, async () => {
    const port = await freePort();
    const waiting = createWorkletKVStore(null, { url: `http://127.0.0.1:${port}`, token: "t", timeout: 30, fetch: send }).increment("k");
    await new Promise((resolve) => setTimeout(resolve, 100)); // at least one attempt finds nobody
    const late = await serveAt(port, [200, { value: 5, version: 1 }]);
    open.push(late);
    assert.equal(await waiting, 5);
    assert.equal(late.requests.length, 1);
  });

  test(`${how}: a store that stays away is told within the timeout, and nothing was done`, async () => {
    const port = await freePort();
    const store = createWorkletKVStore(null, { url: `http://127.0.0.1:${port}`, token: SECRET, timeout: 1, fetch: send });
    const error = await thrown(store.increment("k"), KVConnectionError);
    assert.equal(error.outcomeUnknown, false);
    assert.match(error.message, /127\.0\.0\.1.*ECONNREFUSED/);
  });

  test(`${how}: an answer that does not come ends with the timeout`, async () => {
    const { store } = await scriptedWith({ fetch: send, timeout: 0.3 }, () => undefined);
    const error = await thrown(store.increment("k"), KVConnectionError);
    assert.match(error.message, /no answer within 0\.3 s/);
    assert.equal(error.outcomeUnknown, true);
  });

  test(`${how}: an answer that stops in its middle is a broken connection`, async () => {
    const half = (response) => {
      response.writeHead(200, { "content-length": 100 });
      response.write('{"version"');
      setImmediate(() => response.socket.destroy());
    };
    const { store, requests } = await scriptedWith({ fetch: send }, half, [200, true], half);
    assert.equal(await store.has("k"), true);
    assert.equal(requests.length, 2);
    assert.equal((await thrown(store.increment("k"), KVConnectionError)).outcomeUnknown, true);
  });
}
