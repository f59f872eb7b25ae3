/**
 * What the store's client throws.
 *
 *     KVError
 *     ├── KVValidationError   an argument or a value breaks a rule; the same call will fail again
 *     ├── KVPermissionError   no token, a bad, expired or revoked one, or another worklet's store
 *     ├── KVQuotaError        the worklet holds all that it may, or asks too often
 *     ├── KVConflictError     a check of a transaction did not hold
 *     └── KVConnectionError   the store cannot be reached, or broke off
 *
 * No message holds a value, a key, a namespace or a token, so all of them may be logged.
 */
/** The store's hint that it is away, and that nothing of the request was begun. */
export const NOT_BEGUN = "KV_NOT_BEGUN";
/** The store did not do what was asked. */
export class KVError extends Error {
    /** PostgREST's or PostgreSQL's code, such as "22023". */
    code;
    /** The store's own word for the reason, such as "KV_TOO_LARGE". */
    hint;
    /** The HTTP status, where the server answered. */
    status;
    /**
     * This request, or an earlier attempt of the same call, may have arrived all the same, so the change may have been
     * made: look before doing it again.
     */
    outcomeUnknown;
    constructor(message, details = {}) {
        super(message);
        this.code = details.code ?? null;
        this.hint = details.hint ?? null;
        this.status = details.status ?? null;
        this.outcomeUnknown = details.outcomeUnknown ?? false;
    }
    get name() {
        return "KVError";
    }
}
/** An argument or a value breaks a rule. Most are found before anything is sent. */
export class KVValidationError extends KVError {
    get name() {
        return "KVValidationError";
    }
}
/** The token is missing, bad, expired or revoked, or the store belongs to another worklet. */
export class KVPermissionError extends KVError {
    get name() {
        return "KVPermissionError";
    }
}
/** The worklet holds as many keys or bytes as it may, or asks more often than it may (hint "KV_RATE"). */
export class KVQuotaError extends KVError {
    get name() {
        return "KVQuotaError";
    }
}
/** A check of a transaction did not hold, so nothing was changed. */
export class KVConflictError extends KVError {
    /** The index, among the transaction's steps, of the check that did not hold. */
    failed;
    constructor(message, failed) {
        super(message);
        this.failed = failed;
    }
    get name() {
        return "KVConflictError";
    }
}
/** The store cannot be reached, or the connection broke off. See `outcomeUnknown`. */
export class KVConnectionError extends KVError {
    get name() {
        return "KVConnectionError";
    }
}
/** An argument that breaks a rule, found by the client itself. */
export function invalid(message) {
    return new KVValidationError(message, { code: "22023", hint: "KV_INVALID" });
}
export function tooLarge(message) {
    return new KVValidationError(message, { code: "54000", hint: "KV_TOO_LARGE" });
}
/** PostgreSQL's own codes for what the client calls invalid. Its messages quote values, so they are never shown. */
const INVALID = {
    "21000": "The same key stands twice in one request.",
    "22003": "A number is outside its range.",
    "22023": "An argument breaks a rule.",
    "22P02": "An argument is of the wrong kind.",
    "22P05": "A string may not hold the character NUL.",
    "23514": "An argument breaks a rule of the store's table.",
};
const TOKEN = {
    PGRST302: "The store wants a token: set FLOW_KV_TOKEN_FILE, or pass token or tokenFile.",
    PGRST303: "The token has expired: it needs to be renewed.",
};
/** Says of an error, a refusal too, that an attempt before it may have been carried out. */
export function markUnknown(error) {
    error.outcomeUnknown = true;
}
/** The error that an answer tells. `body` is its JSON, or undefined where it was none. */
export function fromAnswer(status, body, procedure) {
    const told = (typeof body === "object" && body !== null ? body : {});
    const code = text(told["code"]);
    const given = text(told["hint"]);
    // PostgreSQL's and PostgREST's own hints and messages may quote; the store's, known by their hint, do not.
    const hint = given?.startsWith("KV_") ? given : null;
    const [kind, words] = kindAndWords(status, code, hint, procedure);
    return new kind((hint && text(told["message"])) || words, { code, hint, status });
}
function kindAndWords(status, code, hint, procedure) {
    if (status === 429)
        return [KVQuotaError, "Too many operations a second."];
    if (hint === "KV_QUOTA_BYTES" || hint === "KV_QUOTA_KEYS")
        return [KVQuotaError, "The worklet's store is full."];
    const broken = code === null ? undefined : INVALID[code];
    if (broken)
        return [KVValidationError, broken];
    if (code === "54000" || status === 413)
        return [KVValidationError, "The value or the request is too large."];
    if (code === "PGRST202" || code === "PGRST205") {
        return [KVError, `The server has no function ${procedure}: apply the migrations, or reload its schema.`];
    }
    if (code === "42501" || status === 403) {
        return [KVPermissionError, "This token may not use this worklet's store."];
    }
    if (status === 401)
        return [KVPermissionError, TOKEN[code ?? ""] ?? "The token is not valid for this store."];
    if (code === "40001" || code === "40P01") {
        return [KVError, "The store was too busy with other changes of the same keys; try again."];
    }
    if (status === 502 || status === 503 || status === 504) {
        return [KVConnectionError, `The store is away (HTTP ${status}).`];
    }
    if (status === 404 || (status >= 300 && status < 400)) {
        return [KVError, `There is no store at this address (HTTP ${status}): check FLOW_KV_URL or url.`];
    }
    return [KVError, `The store failed (HTTP ${status}${code ? `, ${code}` : ""}).`];
}
function text(value) {
    return typeof value === "string" ? value : null;
}
