/**
 * Runs kv_cases.json against a gateway: `node cases.js kv_cases.json < worklets.json`.
 *
 * Standard input: {"url", "apiKey"?, "names", "worklets": [{"id", "token"}, …]}: the cases to run, and an empty worklet for
 * each of them. Standard output: {"ran": n, "failures": [{"case", "why"}, …]}.
 */

import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import { KVError, createWorkletKVStore } from "../dist/index.js";

const AT_ONCE = 8;
const SECONDS = 15;

const BAD = {
  cycle: () => {
    const ring = [];
    ring.push(ring);
    return ring;
  },
  date: () => new Date(0),
  function: () => () => undefined,
  bytes: () => new Uint8Array([120]),
  bigint: () => 1n,
};

const numbered = (prefix, n) => Array.from({ length: n }, (_, at) => prefix + String(at).padStart(4, "0"));

const MAKERS = {
  $var: (name, variables) => variables[name],
  $repeat: ([piece, times]) => piece.repeat(times),
  $nest: ([depth, innermost]) => {
    let value = innermost;
    for (let at = 0; at < depth; at++) value = [value];
    return value;
  },
  $times: ([n, value], variables) => Array(n).fill(made(value, variables)),
  $keys: ([prefix, n]) => numbered(prefix, n),
  $object: ([prefix, n, value], variables) =>
    Object.fromEntries(numbered(prefix, n).map((name) => [name, made(value, variables)])),
  $number: (name) => Number(name),
  $bad: (name) => BAD[name](),
};

/** The only name of an object that is one of the words that begin with $, and what it is about. */
function word(value, words) {
  const names = isObject(value) ? Object.keys(value) : [];
  return names.length === 1 && Object.hasOwn(words, names[0]) ? [words[names[0]], value[names[0]]] : null;
}

function made(value, variables) {
  if (Array.isArray(value)) return value.map((item) => made(item, variables));
  if (!isObject(value)) return value;
  const making = word(value, MAKERS);
  if (making) return making[0](making[1], variables);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, made(item, variables)]));
}

const KINDS = {
  any: () => true,
  version: (have) => Number.isSafeInteger(have) && have > 0,
  time: (have) => typeof have === "string" && /T.*(Z|[+-]\d\d:\d\d)$/.test(have) && !Number.isNaN(Date.parse(have)),
  text: (have) => typeof have === "string",
  number: (have) => typeof have === "number",
};

const MATCHERS = {
  $is: (kind, have) => (KINDS[kind](have) ? null : `no ${kind}`),
  $has: (part, have, variables) => (isObject(have) ? differenceIn(part, have, variables) : "no object"),
  $above: (least, have, variables) => (have > made(least, variables) ? null : `not above ${made(least, variables)}`),
  $not: (value, have, variables) => (difference(value, have, variables) === null ? "what it must not be" : null),
  $length: (length, have) => (have.length === length ? null : `of length ${have.length}, not ${length}`),
};

/** Where `have` is not what is wanted; null: nowhere. */
function difference(want, have, variables) {
  const matching = word(want, MATCHERS);
  if (matching) return matching[0](matching[1], have, variables);
  if (word(want, MAKERS)) return same(made(want, variables), have) ? null : "not what was made";
  if (Array.isArray(want)) {
    if (!Array.isArray(have) || have.length !== want.length) return `not ${want.length} items: ${shown(have)}`;
    return differenceIn(want, have, variables);
  }
  if (isObject(want)) {
    const surplus = isObject(have) && Object.keys(have).find((name) => !Object.hasOwn(want, name));
    return isObject(have) && !surplus ? differenceIn(want, have, variables) : `not those names: ${shown(have)}`;
  }
  return want === have ? null : `${shown(have)}, not ${shown(want)}`; // -0 is 0
}

function differenceIn(want, have, variables) {
  for (const name of Object.keys(want)) {
    if (!Object.hasOwn(have, name)) return `.${name} is missing`;
    const why = difference(want[name], have[name], variables);
    if (why !== null) return `.${name}: ${why}`;
  }
  return null;
}

function same(one, other) {
  if (typeof one !== "object" || one === null) return one === other;
  if (typeof other !== "object" || other === null || Array.isArray(one) !== Array.isArray(other)) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((n) => Object.hasOwn(other, n) && same(one[n], other[n]));
}

const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const shown = (value) => String(JSON.stringify(value)).slice(0, 300);
/** The client's own objects, whose names are in camelCase; all that is within `value` is somebody's data. */
const TOLD = new Set(["entry", "list", "scan", "get_stats", "watch", "transaction"]);

/** A result of the client as the JSON that the cases speak. */
function plain(result, told) {
  if (result === undefined) return null;
  if (result instanceof Date) return result.toISOString();
  if (!told || typeof result !== "object" || result === null) return result;
  if (Array.isArray(result)) return result.map((item) => plain(item, told));
  return Object.fromEntries(Object.entries(result).map(([n, item]) => [snake(n), plain(item, told && n !== "value")]));
}

async function all(items, most = Infinity) {
  const found = [];
  for await (const item of items) if (found.push(item) >= most) break;
  return found;
}

async function until(condition) {
  const end = performance.now() + SECONDS * 1000;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited ${SECONDS} s in vain`);
    await pause(10);
  }
}

const OWN = {
  scan: (store, prefix, options) => all(store.scan(prefix, options)),
  watch: (store, prefix, { take, ...options }) => all(store.watch(prefix, options), take),
  transaction: (store, operations) => {
    const work = store.transaction();
    for (const { op, key, value, version, delta, ...options } of operations) {
      if (op === "set" || op === "append") work[op](key, value, options);
      else if (op === "check") work.check(key, version, options);
      else if (op === "increment") work.increment(key, delta, options);
      else work[op](key, options);
    }
    return work.commit();
  },
  until_missing: (store, key) => until(async () => !(await store.has(key))),
  until_empty: (store, namespace) => until(async () => (await store.list("", { namespace })).entries.length === 0),
  view_get: (store, name, key) => store.namespace(name).get(key),
  view_set: (store, name, key, value) => store.namespace(name).set(key, value),
  view_has: (store, name, key) => store.namespace(name).has(key),
  view_delete: (store, name, key) => store.namespace(name).delete(key),
  view_keys: (store, name) => all(store.namespace(name).keys()),
  view_len: (store, name) => store.namespace(name).count(),
};

/** How many positional arguments come before the options. */
const POSITIONS = { list: 1, scan: 1, watch: 1, increment: 2, get: 1, entry: 1, has: 1, delete: 1, set: 2, mget: 1, mset: 1, append: 2 };

async function perform(store, step, variables) {
  const args = made(step.args ?? [], variables);
  const given = Object.entries(made(step.with ?? {}, variables));
  const options = Object.fromEntries(given.map(([name, value]) => [camel(name), value]));
  const places = [...args];
  if (given.length > 0) places[POSITIONS[step.do]] = options; // a hole is undefined: the default
  const method = OWN[step.do] ?? ((one, ...rest) => one[camel(step.do)](...rest));
  return plain(await method(store, ...places), TOLD.has(step.do));
}

function failure(error, step) {
  if (!(error instanceof KVError)) throw error;
  if (!step.fails) return `failed: ${error.name} ${error.code} ${error.hint}: ${error.message}`;
  const [kind, hint] = step.fails;
  if (error.name !== kind) return `failed with ${error.name} (${error.message}), not ${kind}`;
  if (hint && error.hint !== hint) return `failed with ${error.hint} (${error.message}), not ${hint}`;
  if ("failed" in step && error.failed !== step.failed) return `failed at ${error.failed}, not ${step.failed}`;
  const words = [String(error), error.stack, error.code, error.hint, JSON.stringify(error)];
  return step.hides && words.some((one) => one?.includes(step.hides)) ? "tells what it should hide" : null;
}

async function take(step, store, variables) {
  let result;
  try {
    result = await perform(store, step, variables);
  } catch (error) {
    return failure(error, step);
  }
  if (step.fails) return `gave ${shown(result)} and should have failed`;
  for (const [name, path] of Object.entries(step.save ?? {})) {
    variables[name] = path.split(".").reduce((value, part) => (part === "" ? value : value[part]), result);
  }
  return "gives" in step ? difference(step.gives, result, variables) : null;
}

async function run(one, store) {
  const variables = {};
  for (const [at, step] of one.steps.entries()) {
    const why = await take(step, store, variables).catch((error) => error.stack);
    if (why !== null) return { case: one.name, why: `step ${at} (${step.do} ${shown(step.args)}): ${why}` };
  }
  return null;
}

const { cases } = JSON.parse(await readFile(process.argv[2], "utf8"));
const { url, apiKey, names, worklets } = JSON.parse(await text(process.stdin));
const waiting = names.map((name, at) => [cases.find((one) => one.name === name), worklets[at]]);
const failures = [];
const worker = async () => {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    const [one, { id, token }] = next;
    failures.push(await run(one, createWorkletKVStore(id, { url, token, apiKey, timeout: 60 })));
  }
};
await Promise.all(Array.from({ length: AT_ONCE }, worker));
console.log(JSON.stringify({ ran: failures.length, failures: failures.filter(Boolean) }));
