/** What surrounds the program: environment variables and the token's file. In a browser there is neither. */
import type { TokenProvider } from "./types.js";
/** An environment variable; undefined where it is empty, or where there are none. */
export declare function variable(name: string): string | undefined;
/** Whether this is Node itself: others that have its modules are quicker with their own fetch. */
export declare function nodeProgram(): boolean;
/** Where the bearer token comes from. */
export interface TokenSource {
    /** Asking again may give another token. */
    readonly renewable: boolean;
    current(): Promise<string>;
    /** After the store has refused the current one. */
    renewed(): Promise<string>;
}
export declare function tokenSource(token: TokenProvider | undefined, file: string | undefined): TokenSource;
/** Looks at the file once a second at most, and reads it when it has changed: whoever renews the token writes it. */
export declare class TokenFile implements TokenSource {
    #private;
    readonly renewable = true;
    constructor(path: string, now?: () => number);
    current(): Promise<string>;
    renewed(): Promise<string>;
}
