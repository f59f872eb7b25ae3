/** Watching for changes: one look after the other, across lost connections. */
import type { Transport } from "./transport.js";
import type { Change, WatchOptions } from "./types.js";
/** Changes as they happen, until `return()`, the end of a `for await`, or the signal. */
export declare class Watch<T> implements AsyncIterableIterator<Change<T>> {
    #private;
    constructor(transport: Transport, namespace: string | undefined, prefix: string, options: WatchOptions);
    [Symbol.asyncIterator](): this;
    /** Resolves when "from now on" has begun: every later change will be told. */
    ready(): Promise<this>;
    next(): Promise<IteratorResult<Change<T>, undefined>>;
    return(): Promise<IteratorResult<Change<T>, undefined>>;
}
