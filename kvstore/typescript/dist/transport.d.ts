/** One call of a function of the store over HTTP, with its retries. */
import type { TokenSource } from "./environment.js";
/**
 * What a call does to the store: whether it may be sent again when its outcome is not known. "counted": it may, but the
 * second answer does not count what the first request deleted.
 */
export type Effect = "read" | "repeatable" | "counted" | "once";
export interface CallOptions {
    /** Seconds that the server may wait before it answers. */
    wait?: number;
    signal?: AbortSignal | undefined;
}
export declare class Transport {
    #private;
    readonly tokens: TokenSource;
    readonly timeout: number;
    constructor(url: string, tokens: TokenSource, options: {
        timeout: number;
        apiKey: string | undefined;
        workletId: string | undefined;
        fetch: typeof fetch | undefined;
    });
    /** What `read` makes of the answer; it throws TypeError for one of another shape. Names come without their p_. */
    call<T>(name: string, named: Record<string, unknown>, effect: Effect, read: (told: unknown) => T, options?: CallOptions): Promise<T>;
}
/** Seconds before the next attempt: never zero, and different for each of many clients that lost the same server. */
export declare function pauseAfter(attempt: number): number;
/** Throws the signal's reason when it is aborted. */
export declare function sleep(seconds: number, signal?: AbortSignal): Promise<void>;
