/** One namespace of a store, as a collection. */
import { Transaction } from "./transaction.js";
import { checkNamespace } from "./values.js";
/**
 * What the store does, in one namespace and with values of one type.
 *
 *     const prefs = store.namespace<string>("prefs");
 *     await prefs.set("theme", "dark");
 *     for await (const [key, value] of prefs) console.log(key, value);
 */
export class KVNamespace {
    name;
    #store;
    #transport;
    #here;
    constructor(store, transport, name) {
        this.name = checkNamespace(name);
        this.#here = { namespace: this.name };
        this.#store = store;
        this.#transport = transport;
    }
    get(key, options = {}) {
        return this.#store.get(key, { ...options, ...this.#here });
    }
    entry(key) {
        return this.#store.entry(key, this.#here);
    }
    has(key) {
        return this.#store.has(key, this.#here);
    }
    set(key, value, options = {}) {
        return this.#store.set(key, value, { ...options, ...this.#here });
    }
    delete(key, options = {}) {
        return this.#store.delete(key, { ...options, ...this.#here });
    }
    mget(keys) {
        return this.#store.mget(keys, this.#here);
    }
    mset(entries, options = {}) {
        return this.#store.mset(entries, { ...options, ...this.#here });
    }
    list(prefix = "", options = {}) {
        return this.#store.list(prefix, { ...options, ...this.#here });
    }
    scan(prefix = "", options = {}) {
        return this.#store.scan(prefix, { ...options, ...this.#here });
    }
    async *keys(prefix = "") {
        for await (const entry of this.scan(prefix))
            yield entry.key;
    }
    async *entries(prefix = "") {
        for await (const { key, value } of this.scan(prefix, { values: true }))
            yield [key, value];
    }
    [Symbol.asyncIterator]() {
        return this.entries();
    }
    /** The number of keys, counted by reading them page by page. */
    async count(prefix = "") {
        let count = 0;
        for await (const _ of this.scan(prefix))
            count++;
        return count;
    }
    clear() {
        return this.#store.clear(this.name);
    }
    increment(key, delta = 1, options = {}) {
        return this.#store.increment(key, delta, { ...options, ...this.#here });
    }
    append(key, value, options = {}) {
        return this.#store.append(key, value, { ...options, ...this.#here });
    }
    transaction() {
        return new Transaction(this.#transport, this.name);
    }
    watch(prefix = "", options = {}) {
        return this.#store.watch(prefix, { ...options, ...this.#here });
    }
}
