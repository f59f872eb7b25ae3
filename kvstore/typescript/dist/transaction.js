/** Several operations that are done together, or not at all. */
import { KVConflictError, KVError, invalid } from "./errors.js";
import { entryOf, is } from "./types.js";
import { MAX_ENTRIES, checkDelta, checkKey, checkNamespace, checkTtl, checkVersion, encode, objectText } from "./values.js";
/**
 * Collects steps; `commit` sends them. Each step sees what the ones before it did.
 *
 *     const [, moved] = await store.transaction().check("a", version).increment("a", -30).commit();
 */
export class Transaction {
    #transport;
    #namespace;
    #steps = [];
    #kinds = [];
    #sent = false;
    constructor(transport, namespace) {
        this.#transport = transport;
        this.#namespace = namespace;
    }
    get length() {
        return this.#steps.length;
    }
    /** Go on only if the key has this version; null: only if there is no such key. */
    check(key, version, options = {}) {
        const wanted = version === null ? "null" : String(checkVersion(version));
        return this.#add("check", key, options, [["version", wanted]]);
    }
    set(key, value, options = {}) {
        return this.#add("set", key, options, [["value", encode(value)]]);
    }
    delete(key, options = {}) {
        return this.#add("delete", key, options, []);
    }
    increment(key, delta = 1, options = {}) {
        return this.#add("increment", key, options, [["delta", JSON.stringify(checkDelta(delta))]]);
    }
    append(key, value, options = {}) {
        return this.#add("append", key, options, [["value", encode(value)]]);
    }
    get(key, options = {}) {
        return this.#add("get", key, options, []);
    }
    /** The steps' results, in their order. Throws KVConflictError when a check does not hold. It can be sent once. */
    async commit() {
        this.#checkUnsent();
        this.#sent = true;
        const operations = `[${this.#steps.join(",")}]`;
        const answer = await this.#transport.call("kv_transaction", { operations }, "once", (told) => this.#read(told));
        if (!answer.committed) {
            throw new KVConflictError("A check of the transaction did not hold; nothing was changed.", answer.failed);
        }
        return answer.results;
    }
    #add(kind, key, options, fields) {
        this.#checkUnsent();
        if (this.#steps.length === MAX_ENTRIES)
            throw invalid(`A transaction may have ${MAX_ENTRIES} steps.`);
        const namespace = options.namespace === undefined ? this.#namespace : checkNamespace(options.namespace);
        const life = options.ttl == null ? [] : [["ttl", String(checkTtl(options.ttl))]];
        const place = { op: kind, namespace, key: checkKey(key) };
        const words = Object.entries(place).map(([name, text]) => [name, JSON.stringify(text)]);
        this.#steps.push(objectText([...words, ...fields, ...life]));
        this.#kinds.push(kind);
        return this;
    }
    #checkUnsent() {
        if (this.#sent)
            throw new KVError("This transaction was committed already: begin another one.");
    }
    #read(told) {
        const answer = told;
        if (!is(answer.committed, "boolean"))
            return { ...answer, failed: is(answer.failed, "number") };
        if (answer.results.length !== this.#kinds.length)
            throw new TypeError("not a result for each step");
        const results = answer.results.map((one, at) => (this.#kinds[at] === "get" && one !== null ? entryOf(one) : one));
        return { ...answer, results };
    }
}
