/** Values, keys and the other arguments: checked before anything is sent, in the gateway's words. */
import { invalid, tooLarge } from "./errors.js";
export const MAX_ENTRIES = 1000; // of one request
const MAX_VALUE_BYTES = 1_048_576;
const MAX_DEPTH = 128;
const MAX_NAMESPACE_BYTES = 256;
const MAX_KEY_BYTES = 512;
const MAX_TTL = 315_360_000;
const UNFIT = /[\0\p{Surrogate}]/u; // with the u flag only a lone half of a pair is a surrogate
const STRING_OR_EXPONENT = /"[^"\\]*(?:\\.[^"\\]*)*"|(-?)[\d.]+e\+(\d+)/g;
const encoder = new TextEncoder();
/** The value as compact JSON. Throws KVValidationError. */
export function encode(value) {
    examine(value, []);
    const text = JSON.stringify(value);
    if (!fits(text, MAX_VALUE_BYTES) || !fits(text, MAX_VALUE_BYTES - lengthOfDigits(text))) {
        throw tooLarge(`A value may have ${MAX_VALUE_BYTES} bytes as compact JSON; this one has more.`);
    }
    return text;
}
/** Whether the text has at most so many bytes of UTF-8. */
export function fits(text, bytes) {
    if (text.length > bytes)
        return false;
    return text.length * 3 <= bytes || encoder.encode(text).length <= bytes;
}
/** How much longer the text is where numbers such as 1e+300 are written out, as the store counts and keeps them. */
function lengthOfDigits(text) {
    if (!text.includes("e+"))
        return 0;
    let more = 0;
    for (const [token, sign, exponent] of text.matchAll(STRING_OR_EXPONENT)) {
        if (exponent === undefined)
            continue; // a string
        more += Number(exponent) + 1 + ".0".length - (token.length - (sign?.length ?? 0));
    }
    return more;
}
export function checkKey(key) {
    return checkName(key, "key", MAX_KEY_BYTES);
}
export function checkKeys(keys) {
    if (typeof keys === "string" || !isIterable(keys))
        throw invalid("Several keys are wanted, as an array.");
    return Array.from(keys, checkKey);
}
export function checkNamespace(namespace) {
    return checkName(namespace, "namespace", MAX_NAMESPACE_BYTES);
}
export function checkPrefix(prefix) {
    return prefix === "" ? "" : checkName(prefix, "prefix", MAX_KEY_BYTES);
}
export function checkCursor(cursor) {
    if (typeof cursor !== "string")
        throw invalid(`A cursor must be a string, not ${kindOf(cursor)}.`);
    return checkText(cursor, "A cursor");
}
export function checkTtl(ttl) {
    if (typeof ttl !== "number")
        throw invalid(`A ttl must be a number of seconds, not ${kindOf(ttl)}.`);
    if (!(ttl > 0 && ttl <= MAX_TTL))
        throw invalid(`A ttl must be over 0 and at most ${MAX_TTL} seconds.`);
    return ttl;
}
export function checkVersion(version) {
    if (!Number.isSafeInteger(version))
        throw invalid(`A version must be a whole number, not ${kindOf(version)}.`);
    return version;
}
export function checkLimit(limit) {
    if (!Number.isSafeInteger(limit))
        throw invalid(`A limit must be a whole number, not ${kindOf(limit)}.`);
    if (limit < 1 || limit > MAX_ENTRIES) {
        throw invalid(`A limit must be between 1 and ${MAX_ENTRIES}.`);
    }
    return limit;
}
export function checkDelta(delta) {
    if (typeof delta !== "number")
        throw invalid(`A delta must be a number, not ${kindOf(delta)}.`);
    examine(delta, []);
    return delta;
}
/** Keys and values to write, out of an object or a Map: checked keys, values as JSON text. */
export function checkEntries(entries) {
    if (!(entries instanceof Map) && !isPlain(entries)) {
        throw invalid(`Entries must be an object or a Map of keys to values, not ${kindOf(entries)}.`);
    }
    const pairs = entries instanceof Map ? entries : Object.entries(entries);
    return Array.from(pairs, ([key, value]) => [checkKey(key), encode(value)]);
}
/** A JSON object of names and values that are JSON text already. */
export function objectText(pairs) {
    return `{${Array.from(pairs, ([name, text]) => `${JSON.stringify(name)}:${text}`).join(",")}}`;
}
/** An object as a literal makes it, from any realm: class instances are none, as they would not come back as such. */
export function isPlain(value) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
        return false;
    const prototype = Object.getPrototypeOf(value);
    return prototype === null || Object.getPrototypeOf(prototype) === null;
}
function checkName(text, what, maximum) {
    if (typeof text !== "string")
        throw invalid(`A ${what} must be a string, not ${kindOf(text)}.`);
    checkText(text, `A ${what}`);
    if (text === "" || !fits(text, maximum)) {
        throw invalid(`A ${what} must have between 1 and ${maximum} bytes of UTF-8.`);
    }
    return text;
}
function checkText(text, what) {
    if (!UNFIT.test(text))
        return text;
    throw invalid(text.includes("\0") ? `${what} may not hold the character NUL.` : `${what} may not hold half a surrogate pair.`);
}
/** Throws KVValidationError for what would not come back equal. `above`: the arrays and objects that hold the value. */
function examine(value, above) {
    switch (typeof value) {
        case "string":
            checkText(value, "A string");
            return;
        case "number":
            if (!Number.isFinite(value))
                throw invalid("NaN and Infinity are no JSON.");
            return;
        case "boolean":
            return;
        case "object":
            if (value !== null)
                examineObject(value, above);
            return;
        default:
            throw invalid(NO_JSON[typeof value] ?? `A ${typeof value} is no JSON value.`);
    }
}
const NO_JSON = {
    bigint: "A BigInt is no JSON value: store Number(value), or String(value) where it has more than 15 digits.",
    function: "A function is no JSON value.",
    symbol: "A symbol is no JSON value.",
    undefined: "undefined is no JSON value: use null, or leave the name out.",
};
function examineObject(value, above) {
    const list = Array.isArray(value);
    if (!list && !isPlain(value))
        throw invalid(noPlainObject(value));
    if (typeof value.toJSON === "function") {
        throw invalid("An object with a function toJSON is no JSON value: store what toJSON() gives.");
    }
    if (above.includes(value))
        throw invalid("A value may not hold itself.");
    if (above.length === MAX_DEPTH)
        throw invalid(`Arrays and objects may be nested ${MAX_DEPTH} deep.`);
    above.push(value);
    if (list) {
        for (const item of value)
            examine(item, above);
    }
    else {
        for (const name of Object.keys(value)) {
            checkText(name, "A name in an object");
            examine(value[name], above);
        }
    }
    above.pop();
}
function noPlainObject(value) {
    if (value instanceof Date)
        return "A Date is no JSON value: store date.toISOString(), or date.getTime().";
    if (value instanceof Map)
        return "A Map is no JSON value: store Object.fromEntries(map), or [...map].";
    if (value instanceof Set)
        return "A Set is no JSON value: store [...set].";
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
        return "Bytes are no JSON value: store them as text, in base64 say.";
    }
    if (value instanceof Promise)
        return "A Promise is no JSON value: await it first.";
    return "An instance of a class is no JSON value, as it would not come back as one: store a plain object, {...it} say.";
}
function kindOf(value) {
    if (value === null)
        return "null";
    if (Array.isArray(value))
        return "an array";
    if (typeof value === "number")
        return "such a number";
    return typeof value === "object" ? "an object" : typeof value;
}
function isIterable(value) {
    return typeof value === "object" && value !== null && Symbol.iterator in value;
}
