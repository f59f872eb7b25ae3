/** What is refused before it is sent, and in which words. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import { KVError, KVValidationError, createWorkletKVStore } from "../dist/index.js";
import { encode } from "../dist/values.js";

const refused = (value, words) =>
  assert.throws(() => encode(value), (error) => error instanceof KVValidationError && words.test(error.message));

class Point {
  x = 1;
}

test("what would not come back equal is refused in a sentence that helps", () => {
  refused(undefined, /undefined is no JSON value: use null/);
  refused({ a: undefined }, /undefined/);
  refused([1, undefined], /undefined/);
  refused(new Array(3), /undefined/);
  refused(() => 1, /function/);
  refused({ toJSON: () => 1 }, /toJSON/);
  refused(Object.assign([1], { toJSON: () => undefined }), /toJSON/);
  refused([Object.defineProperty({}, "toJSON", { value: () => NaN })], /toJSON/);
  refused(Symbol("s"), /symbol/);
  refused(5n, /BigInt.*Number\(value\)/);
  refused(new Date(), /toISOString/);
  refused(new Map(), /Object\.fromEntries/);
  refused(new Set(), /\[\.\.\.set\]/);
  refused(Buffer.from("x"), /base64/);
  refused(new ArrayBuffer(1), /base64/);
  refused(Promise.resolve(1), /await/);
  refused(new Point(), /instance of a class/);
  refused(new String("x"), /instance of a class/);
  refused(NaN, /NaN/);
  refused([Infinity], /Infinity/);
  refused("a\0", /NUL/);
  refused({ "\0": 1 }, /NUL/);
  refused("\ud800x", /surrogate/);
  refused({ a: ["\udc00"] }, /surrogate/);
});

test("an object may stand in several places, but not within itself", () => {
  const shared = { a: 1 };
  assert.equal(encode([shared, shared]), '[{"a":1},{"a":1}]');
  const ring = { list: [] };
  ring.list.push(ring);
  refused(ring, /may not hold itself/);
});

test("plain objects of any realm, and without a prototype, are taken", () => {
  assert.equal(encode(runInNewContext("({ a: [1, { b: null }] })")), '{"a":[1,{"b":null}]}');
  assert.equal(encode(Object.assign(Object.create(null), { a: 1 })), '{"a":1}');
  assert.equal(encode(JSON.parse('{"__proto__": {"x": 1}}')), '{"__proto__":{"x":1}}');
  assert.equal(encode({ ...new Point() }), '{"x":1}');
});

test("numbers count with all their digits, as the store keeps them", () => {
  const bytes = 1_048_576;
  // [1e+300,…] is kept as 301 digits and .0, with a comma or bracket each; a minus counts too.
  for (const [number, length] of [[1e300, 304], [-1.5e300, 305], [1e21, 25], [1e20, 22]]) {
    const most = Math.floor((bytes - 1) / length);
    encode(new Array(most).fill(number));
    refused(new Array(most + 1).fill(number), /1048576/);
  }
  encode(["1e+300", '\\"1e+300'.repeat(60_000), "e+".repeat(200_000)]); // no numbers
  encode(["\\".repeat(500_000), 1e300]);
});

test("limits are those of the gateway", () => {
  const nested = (depth) => {
    let value = 1;
    for (let at = 0; at < depth; at++) value = at % 2 ? [value] : { a: value };
    return value;
  };
  encode(nested(128));
  refused(nested(129), /128 deep/);
  refused(nested(100_000), /128 deep/);
  encode("x".repeat(1_048_574));
  refused("x".repeat(1_048_575), /1048576 bytes/);
  encode("\u{1f600}".repeat(262_143));
  refused("\u{1f600}".repeat(262_144), /1048576 bytes/);
});

const store = createWorkletKVStore(null, { url: "http://127.0.0.1:1", token: "t", timeout: 0.01 });

test("bad arguments reject, and do not throw where a promise is expected", async () => {
  const calls = {
    get: () => store.get(""),
    set: () => store.set("k", new Date()),
    both: () => store.set("k", 1, { ifVersion: 1, onlyIfAbsent: true }),
    version: () => store.set("k", 1, { ifVersion: 1.5 }),
    mget: () => store.mget("abc"),
    mset: () => store.mset([["a", 1]]),
    more: () => store.mset(Object.fromEntries(Array.from({ length: 1001 }, (_, at) => [`k${at}`, 1]))),
    list: () => store.list(5),
    cursor: () => store.list("", { cursor: 5 }),
    scan: () => store.scan("\0").next(),
    clear: () => store.clear(""),
    import: () => store.importData(null),
    view: () => store.namespace("n").get(""),
  };
  for (const [name, call] of Object.entries(calls)) {
    const error = await call().then(() => assert.fail(`${name} was taken`), (reason) => reason);
    assert.equal(error.constructor, KVValidationError, `${name}: ${error.message}`);
    assert.equal(error.hint, "KV_INVALID");
  }
  assert.throws(() => store.namespace(""), KVValidationError);
});

test("a transaction is checked as it is built, holds 1000 steps, and is sent once", async () => {
  assert.throws(() => store.transaction().set("k", undefined), KVValidationError);
  assert.throws(() => store.transaction().check("k", "1"), KVValidationError);
  const work = store.transaction();
  for (let at = 0; at < 1000; at++) work.delete("k");
  assert.equal(work.length, 1000);
  assert.throws(() => work.delete("k"), /1000 steps/);
  await assert.rejects(work.commit(), KVError);
  await assert.rejects(work.commit(), /committed already/);
  assert.throws(() => work.delete("k"), /committed already/);
});
