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
export interface KVErrorDetails {
    code?: string | null;
    hint?: string | null;
    status?: number | null;
    outcomeUnknown?: boolean;
}
/** The store's hint that it is away, and that nothing of the request was begun. */
export declare const NOT_BEGUN = "KV_NOT_BEGUN";
/** The store did not do what was asked. */
export declare class KVError extends Error {
    /** PostgREST's or PostgreSQL's code, such as "22023". */
    readonly code: string | null;
    /** The store's own word for the reason, such as "KV_TOO_LARGE". */
    readonly hint: string | null;
    /** The HTTP status, where the server answered. */
    readonly status: number | null;
    /**
     * This request, or an earlier attempt of the same call, may have arrived all the same, so the change may have been
     * made: look before doing it again.
     */
    readonly outcomeUnknown: boolean;
    constructor(message: string, details?: KVErrorDetails);
    get name(): string;
}
/** An argument or a value breaks a rule. Most are found before anything is sent. */
export declare class KVValidationError extends KVError {
    get name(): string;
}
/** The token is missing, bad, expired or revoked, or the store belongs to another worklet. */
export declare class KVPermissionError extends KVError {
    get name(): string;
}
/** The worklet holds as many keys or bytes as it may, or asks more often than it may (hint "KV_RATE"). */
export declare class KVQuotaError extends KVError {
    get name(): string;
}
/** A check of a transaction did not hold, so nothing was changed. */
export declare class KVConflictError extends KVError {
    /** The index, among the transaction's steps, of the check that did not hold. */
    readonly failed: number;
    constructor(message: string, failed: number);
    get name(): string;
}
/** The store cannot be reached, or the connection broke off. See `outcomeUnknown`. */
export declare class KVConnectionError extends KVError {
    get name(): string;
}
/** An argument that breaks a rule, found by the client itself. */
export declare function invalid(message: string): KVValidationError;
export declare function tooLarge(message: string): KVValidationError;
/** Says of an error, a refusal too, that an attempt before it may have been carried out. */
export declare function markUnknown(error: {
    outcomeUnknown: boolean;
}): void;
/** The error that an answer tells. `body` is its JSON, or undefined where it was none. */
export declare function fromAnswer(status: number, body: unknown, procedure: string): KVError;
