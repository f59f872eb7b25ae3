/** One HTTP request and its answer, by fetch or, in Node, by its own client, which needs a third of the processor. */
export interface Reply {
    status: number;
    text: string;
    /** The header of that name. */
    retryAfter: string | null;
}
/** Sends a POST. Throws Lost; what it throws when the signal is aborted does not matter. Follows no redirection. */
export type Send = (url: URL, headers: Record<string, string>, body: string, signal: AbortSignal) => Promise<Reply>;
/** An exchange broke off. `arrived`: the request may have been carried out. `hopeless`: it will not go better again. */
export declare class Lost extends Error {
    readonly reason: string;
    readonly arrived: boolean;
    readonly hopeless: boolean;
    constructor(reason: string, arrived: boolean, hopeless?: boolean);
}
export declare function fetchSender(given: typeof fetch): Send;
/** Of Node's own client; of fetch where there is no Node, or no such module. */
export declare function platformSender(url: URL): Promise<Send>;
