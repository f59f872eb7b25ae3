/** Where the token comes from, and what is done when it is refused. */

import assert from "node:assert/strict";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { TokenFile } from "../dist/environment.js";
import { KVPermissionError, KVValidationError, createWorkletKVStore } from "../dist/index.js";
import { refusal, serve } from "./scriptedserver.js";

const ends = [];
const EXPIRED = [401, refusal("PGRST303")];

afterEach(() => Promise.all(ends.splice(0).map((end) => end())));

async function scripted(...script) {
  const server = await serve(...script);
  ends.push(server.close);
  return server;
}

async function tokenFile(token) {
  const home = await mkdtemp(join(tmpdir(), "kv-"));
  ends.push(() => rm(home, { recursive: true }));
  const path = join(home, "kv.token");
  const write = async (text) => {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  };
  if (token !== undefined) await write(token);
  return { path, write };
}

const bearers = ({ requests }) => requests.map(({ headers }) => headers.authorization.slice("Bearer ".length));

test("a refused token is read from its file anew, and the call is sent again, an increment too", async () => {
  const server = await scripted([200, true], EXPIRED, [200, { value: 1, version: 1 }]);
  const { path, write } = await tokenFile("first\n");
  const store = createWorkletKVStore(null, { url: server.url, tokenFile: path });
  await store.has("k");
  await write("second\n");
  assert.equal(await store.increment("k"), 1);
  assert.deepEqual(bearers(server), ["first", "first", "second"]);
});

test("a token that stays refused is told after one more attempt", async () => {
  const server = await scripted(EXPIRED);
  const { path } = await tokenFile("first");
  const store = createWorkletKVStore(null, { url: server.url, tokenFile: path });
  await assert.rejects(store.get("k"), (error) => error instanceof KVPermissionError && error.code === "PGRST303");
  assert.equal(server.requests.length, 2);
});

test("no token is no reason to ask again", async () => {
  const server = await scripted([401, refusal("PGRST302")]);
  const { path } = await tokenFile("first");
  const store = createWorkletKVStore(null, { url: server.url, tokenFile: path });
  await assert.rejects(store.get("k"), (error) => error instanceof KVPermissionError && error.code === "PGRST302");
  assert.equal(server.requests.length, 1);
});

test("a fixed token is not tried again", async () => {
  const server = await scripted(EXPIRED);
  const store = createWorkletKVStore(null, { url: server.url, token: "t" });
  await assert.rejects(store.get("k"), KVPermissionError);
  assert.equal(server.requests.length, 1);
});

test("a function is asked before each request", async () => {
  const server = await scripted([200, true]);
  let asked = 0;
  const store = createWorkletKVStore(null, { url: server.url, token: async () => `token${++asked}` });
  await store.has("k");
  await store.has("k");
  assert.deepEqual(bearers(server), ["token1", "token2"]);
});

test("a file is looked at once a second, and read when it has changed", async () => {
  let now = 0;
  const { path, write } = await tokenFile("first");
  const tokens = new TokenFile(path, () => now);
  assert.equal(await tokens.current(), "first");
  await write("second-and-longer");
  assert.equal(await tokens.current(), "first");
  now = 1001;
  assert.deepEqual(await Promise.all([tokens.current(), tokens.current()]), ["second-and-longer", "second-and-longer"]);
  await write("third");
  assert.equal(await tokens.renewed(), "third");
});

test("a file that is not there, or holds no token, is told by its name", async () => {
  const { path, write } = await tokenFile();
  const store = createWorkletKVStore(null, { url: "http://127.0.0.1:1", tokenFile: path });
  await assert.rejects(store.get("k"), (error) => error instanceof KVPermissionError && error.message.includes(`${path}: ENOENT`));
  await write("two words");
  await assert.rejects(store.get("k"), (error) => error instanceof KVPermissionError && !error.message.includes("two words"));
});

test("no token, no url and bad options are told in a sentence", async () => {
  const url = "http://127.0.0.1:1";
  await assert.rejects(createWorkletKVStore(null, { url }).get("k"), /There is no token: set FLOW_KV_TOKEN_FILE/);
  assert.throws(() => createWorkletKVStore(), (error) => error.name === "KVError" && error.code === "KV_NO_ADDRESS");
  for (const bad of ["nonsense", "ftp://127.0.0.1", "http://user:pw@127.0.0.1", "http://127.0.0.1/?q=1"]) {
    assert.throws(() => createWorkletKVStore(null, { url: bad, token: "t" }), KVValidationError, bad);
  }
  assert.throws(() => createWorkletKVStore("no uuid", { url }), KVValidationError);
  assert.throws(() => createWorkletKVStore(null, { url, token: "two\nlines" }), KVPermissionError);
  assert.throws(() => createWorkletKVStore(null, { url, timeout: 0 }), KVValidationError);
  assert.throws(() => createWorkletKVStore(null, { url, timeout: NaN }), KVValidationError);
  assert.throws(() => createWorkletKVStore(null, { url, namespace: "" }), KVValidationError);
});

test("the environment is enough", async () => {
  const server = await scripted([200, true]);
  const { path } = await tokenFile("from the environment".replaceAll(" ", "-"));
  const named = { FLOW_KV_URL: server.url, FLOW_KV_TOKEN_FILE: path, FLOW_KV_APIKEY: "public", FLOW_WORKLET_ID: "2f6c1a52-9b1e-4a53-8f6a-0b9a4a1f3c11" };
  Object.assign(process.env, named);
  ends.push(() => Object.keys(named).forEach((name) => delete process.env[name]));
  await createWorkletKVStore().has("k");
  assert.deepEqual(bearers(server), ["from-the-environment"]);
  assert.equal(server.requests[0].headers.apikey, "public");
  assert.equal(server.requests[0].body.p_worklet_id, named.FLOW_WORKLET_ID);
});
