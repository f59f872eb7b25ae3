/** The store of one worklet: every method is one request, or a few where it says so. */
import { invalid } from "./errors.js";
import { KVNamespace } from "./namespace.js";
import { Transaction } from "./transaction.js";
import { entryOf, is, pageOf, statsOf } from "./types.js";
import * as values from "./values.js";
import { Watch } from "./watch.js";
/** A part of an import: escaping doubles it at worst, and a request may have 16 MiB. */
const PART_LENGTH = 2 * 1024 * 1024;
/**
 * Keys with JSON values, in namespaces. Made by `createWorkletKVStore`.
 *
 * Every method may throw KVValidationError, KVPermissionError, KVQuotaError and KVConnectionError. An increment, an
 * append, a transaction or a conditional change that broke off is never sent again: the error's `outcomeUnknown` says so.
 */
export class WorkletKVStore {
    /** Of all methods that name none. */
    defaultNamespace;
    #transport;
    constructor(transport, namespace) {
        this.#transport = transport;
        this.defaultNamespace = values.checkNamespace(namespace);
    }
    async get(key, options = {}) {
        const entry = await this.entry(key, options);
        return entry === null ? (options.default ?? null) : entry.value;
    }
    /** Value, version and times of a key; null: there is none. */
    async entry(key, options = {}) {
        return this.#call("kv_get", this.#at(key, options), "read", (told) => (told === null ? null : entryOf(told)));
    }
    /** Whether there is such a key: tells a stored null from a missing key. */
    async has(key, options = {}) {
        return this.#call("kv_has", this.#at(key, options), "read", (told) => is(told, "boolean"));
    }
    /** The key's new version; null: the condition did not hold. Without a ttl an earlier expiry is cleared. */
    async set(key, value, options = {}) {
        const { ifVersion, onlyIfAbsent } = options;
        const named = {
            ...this.#at(key, options),
            value: values.encode(value),
            ttl: ttlOf(options),
            if_version: ifVersion == null ? undefined : values.checkVersion(ifVersion),
            only_if_absent: onlyIfAbsent || undefined,
        };
        if (named.if_version !== undefined && named.only_if_absent) {
            throw invalid("ifVersion and onlyIfAbsent exclude each other.");
        }
        const effect = named.if_version === undefined && !named.only_if_absent ? "repeatable" : "once";
        return this.#call("kv_set", named, effect, (told) => {
            const { version } = told;
            return version === null ? null : is(version, "number");
        });
    }
    /** Whether the key was there (and had the version asked for). */
    async delete(key, options = {}) {
        const version = options.ifVersion == null ? undefined : values.checkVersion(options.ifVersion);
        const named = { namespace: this.#named(options), keys: [values.checkKey(key)], if_version: version };
        const effect = version === undefined ? "counted" : "once";
        return this.#call("kv_delete", named, effect, (told) => is(told, "number") > 0);
    }
    /** The values of several keys, under their keys; a missing one is null. Up to 1000 of them are of one moment. */
    async mget(keys, options = {}) {
        const asked = [...new Set(values.checkKeys(keys))];
        const namespace = this.#named(options);
        const found = new Map();
        for (let at = 0; at < asked.length; at += values.MAX_ENTRIES) {
            const named = { namespace, keys: asked.slice(at, at + values.MAX_ENTRIES) };
            const entries = await this.#call("kv_mget", named, "read", (told) => told.map((one) => entryOf(one)));
            for (const { key, value } of entries)
                found.set(key, value);
        }
        // Not by assignment: a key may be called __proto__.
        return Object.fromEntries(asked.map((key) => [key, found.has(key) ? found.get(key) : null]));
    }
    /** Sets at most 1000 keys, all or none. */
    async mset(entries, options = {}) {
        const pairs = values.checkEntries(entries);
        const named = { namespace: this.#named(options), entries: values.objectText(pairs), ttl: ttlOf(options) };
        if (pairs.length > values.MAX_ENTRIES)
            throw invalid(`At most ${values.MAX_ENTRIES} keys can be set at once.`);
        if (pairs.length > 0)
            await this.#call("kv_mset", named, "repeatable", () => undefined);
    }
    async list(prefix = "", options = {}) {
        const named = {
            namespace: this.#named(options),
            prefix: values.checkPrefix(prefix),
            cursor: options.cursor == null ? undefined : values.checkCursor(options.cursor),
            limit: options.limit === undefined ? undefined : values.checkLimit(options.limit),
            values: options.values || undefined,
        };
        return this.#call("kv_list", named, "read", (told) => pageOf(told, options.values === true));
    }
    async *scan(prefix = "", options = {}) {
        let cursor = null;
        do {
            const page = await this.list(prefix, { ...options, cursor, limit: values.MAX_ENTRIES });
            yield* page.entries;
            cursor = page.cursor;
        } while (cursor !== null);
    }
    /** The names of the namespaces that hold something, in byte order. */
    async listNamespaces() {
        return this.#call("kv_list_namespaces", {}, "read", (told) => told.map((name) => is(name, "string")));
    }
    /** Empties a namespace, the store's own if none is named; the number of keys deleted. */
    async clear(namespace = this.defaultNamespace) {
        const named = { namespace: values.checkNamespace(namespace) };
        return this.#call("kv_clear", named, "counted", (told) => is(told, "number"));
    }
    /** Empties every namespace; the number of keys deleted. */
    async clearAll() {
        return this.#call("kv_clear", { namespace: null }, "counted", (told) => is(told, "number"));
    }
    /** The number after adding to it, exactly in decimals; a missing key counts as 0. A ttl counts only where it is new. */
    async increment(key, delta = 1, options = {}) {
        const named = { ...this.#at(key, options), delta: values.checkDelta(delta), ttl: ttlOf(options) };
        return this.#call("kv_increment", named, "once", (told) => is(changed(told).value, "number"));
    }
    /**
     * Adds a string to a string, or anything as one element to a list; the new length. A missing key becomes a string of
     * a string, and a list of anything else. A ttl counts only where the key is new.
     */
    async append(key, value, options = {}) {
        const named = { ...this.#at(key, options), value: values.encode(value), ttl: ttlOf(options) };
        return this.#call("kv_append", named, "once", (told) => is(changed(told).length, "number"));
    }
    /** How full the store is. */
    async getStats() {
        return this.#call("kv_stats", {}, "read", statsOf);
    }
    /** All values of a namespace, or of all, without versions and expiries. Read page by page, so not of one moment. */
    async exportData(namespace) {
        const names = namespace === undefined ? await this.listNamespaces() : [values.checkNamespace(namespace)];
        const data = [];
        for (const name of names) {
            const pairs = [];
            for await (const { key, value } of this.scan("", { namespace: name, values: true }))
                pairs.push([key, value]);
            if (pairs.length > 0 || namespace !== undefined)
                data.push([name, Object.fromEntries(pairs)]);
        }
        return Object.fromEntries(data);
    }
    /** Sets what `exportData` gave; the number of keys. All is checked first, then sent in parts of up to 1000 keys. */
    async importData(data) {
        if (!values.isPlain(data))
            throw invalid("The data must be an object of namespaces, each an object of keys and values.");
        const all = Object.entries(data).map(([name, entries]) => [values.checkNamespace(name), values.checkEntries(entries)]);
        let count = 0;
        for (const [namespace, pairs] of all) {
            for (const part of partsOf(pairs)) {
                await this.#call("kv_mset", { namespace, entries: values.objectText(part) }, "repeatable", () => undefined);
                count += part.length;
            }
        }
        return count;
    }
    /** Several operations that are done together or not at all: add steps, then `commit()`. */
    transaction() {
        return new Transaction(this.#transport, this.defaultNamespace);
    }
    /**
     * Changes of keys with the prefix, as they happen, across lost connections and restarts of the store.
     *
     *     for await (const change of store.watch("user:")) console.log(change.key, change.value);
     *
     * Of several changes of one key between two looks the newest is told.
     */
    watch(prefix = "", options = {}) {
        return new Watch(this.#transport, this.#named(options), prefix, options);
    }
    /** `watch` of every namespace. */
    watchAll(prefix = "", options = {}) {
        return new Watch(this.#transport, undefined, prefix, options);
    }
    /** One namespace, as a collection whose values have one type. */
    namespace(name) {
        return new KVNamespace(this, this.#transport, name);
    }
    #named(options) {
        return options.namespace == null ? this.defaultNamespace : values.checkNamespace(options.namespace);
    }
    #at(key, options) {
        return { namespace: this.#named(options), key: values.checkKey(key) };
    }
    #call(name, named, effect, read) {
        return this.#transport.call(name, named, effect, read);
    }
}
function ttlOf(options) {
    return options.ttl == null ? undefined : values.checkTtl(options.ttl);
}
function changed(told) {
    is(told.version, "number");
    return told;
}
function* partsOf(pairs) {
    let part = [];
    let length = 0;
    for (const pair of pairs) {
        if (part.length === values.MAX_ENTRIES || length > PART_LENGTH) {
            yield part;
            [part, length] = [[], 0];
        }
        part.push(pair);
        length += pair[0].length + pair[1].length;
    }
    if (part.length > 0)
        yield part;
}
