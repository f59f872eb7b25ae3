/** What surrounds the program: environment variables and the token's file. In a browser there is neither. */
import { KVPermissionError } from "./errors.js";
/** An environment variable; undefined where it is empty, or where there are none. */
export function variable(name) {
    const { process, Deno } = globalThis;
    try {
        return process?.env?.[name] || Deno?.env.get(name) || undefined;
    }
    catch {
        return undefined; // Deno without the permission to look
    }
}
/** Whether this is Node itself: others that have its modules are quicker with their own fetch. */
export function nodeProgram() {
    const { process, Deno } = globalThis;
    return Boolean(process?.versions?.["node"]) && !process?.versions?.["bun"] && Deno === undefined;
}
export function tokenSource(token, file) {
    if (typeof token === "string")
        return fixed(checked(token));
    if (typeof token === "function")
        return asked(token);
    return file === undefined ? missing() : new TokenFile(file);
}
/** Looks at the file once a second at most, and reads it when it has changed: whoever renews the token writes it. */
export class TokenFile {
    renewable = true;
    #path;
    #now;
    #state = "";
    #token = "";
    #looked = -Infinity;
    #looking = null;
    constructor(path, now = () => performance.now()) {
        this.#path = path;
        this.#now = now;
    }
    current() {
        if (this.#now() - this.#looked < 1000)
            return Promise.resolve(this.#token);
        return this.#look();
    }
    async renewed() {
        await this.#looking?.catch(() => undefined); // one that began before the refusal may have read the old token
        this.#state = "";
        return this.#look();
    }
    #look() {
        this.#looking ??= this.#read().finally(() => {
            this.#looking = null;
        });
        return this.#looking;
    }
    async #read() {
        try {
            const files = await fileSystem();
            const { mtimeMs, ino, size } = await files.stat(this.#path);
            const state = `${mtimeMs} ${ino} ${size}`;
            if (state !== this.#state) {
                this.#token = checked((await files.readFile(this.#path, "utf8")).trim());
                this.#state = state;
            }
        }
        catch (error) {
            if (error instanceof KVPermissionError)
                throw error;
            const reason = error.code ?? "there are no files here";
            const words = `The token cannot be read from ${this.#path}: ${reason}. Is this code running in a worklet?`;
            throw new KVPermissionError(words, { code: "PGRST302" });
        }
        this.#looked = this.#now();
        return this.#token;
    }
}
function fixed(token) {
    const current = () => Promise.resolve(token);
    return { renewable: false, current, renewed: current };
}
function asked(provider) {
    const current = async () => checked(await provider());
    return { renewable: true, current, renewed: current };
}
function missing() {
    const current = () => {
        const words = "There is no token: set FLOW_KV_TOKEN_FILE, or pass token or tokenFile.";
        return Promise.reject(new KVPermissionError(words, { code: "PGRST302" }));
    };
    return { renewable: false, current, renewed: current };
}
function fileSystem() {
    // Not a literal, so that no bundler for browsers looks for the module.
    const name = "node:fs/promises";
    return import(name);
}
function checked(token) {
    if (typeof token !== "string" || !/^[!-~]+$/.test(token)) {
        throw new KVPermissionError("The token is no token: it must be one line of ASCII text.", { code: "PGRST301" });
    }
    return token;
}
