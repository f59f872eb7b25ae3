/** One call of a function of the store over HTTP, with its retries. */
import { KVConnectionError, KVError, NOT_BEGUN, fromAnswer, invalid, markUnknown, tooLarge } from "./errors.js";
import { Lost, fetchSender, platformSender } from "./exchange.js";
import { Places } from "./places.js";
import { fits } from "./values.js";
const PATH = "rest/v1/rpc/";
const MAX_REQUEST_BYTES = 16 * 1024 * 1024;
const AT_ONCE = 32; // requests; the gateway takes four times as many connections from a worklet
const FIRST_PAUSE = 0.05; // seconds
const LONGEST_PAUSE = 1;
const BUSY = new Set(["40001", "40P01"]);
const STALE_TOKEN = new Set(["PGRST301", "PGRST303"]);
export class Transport {
    tokens;
    timeout;
    #url;
    #headers;
    #send;
    #workletId;
    #places = new Places(AT_ONCE);
    constructor(url, tokens, options) {
        this.#url = addressOf(url);
        if (!(options.timeout > 0) || options.timeout > 2_000_000)
            throw invalid("A timeout must be over 0 seconds.");
        this.tokens = tokens;
        this.timeout = options.timeout;
        this.#headers = { "content-type": "application/json", accept: "application/json" };
        if (options.apiKey !== undefined)
            this.#headers["apikey"] = options.apiKey;
        this.#send = options.fetch === undefined ? null : Promise.resolve(fetchSender(options.fetch));
        this.#workletId = options.workletId;
    }
    /** What `read` makes of the answer; it throws TypeError for one of another shape. Names come without their p_. */
    async call(name, named, effect, read, options = {}) {
        const body = this.#bodyOf(named);
        const tried = { arrived: false };
        const work = () => this.#answer(name, body, effect, options, tried);
        try {
            // A call that waits at the server takes no place from others. Time runs from when a place was found.
            const answer = await (options.wait ? work() : this.#places.run(work));
            if (effect === "counted" && answer.body === 0 && tried.arrived)
                throw this.#uncounted(answer.status);
            return resultOf(name, answer, read);
        }
        catch (error) {
            if (tried.arrived && effect !== "read" && error instanceof KVError)
                markUnknown(error);
            throw error;
        }
    }
    #uncounted(status) {
        const words = "the connection broke off, and the call was repeated. Nothing is there now; whether this call deleted it";
        return new KVConnectionError(`The store at ${this.#url.origin}: ${words} is not known.`, { status });
    }
    #bodyOf(named) {
        const all = this.#workletId === undefined ? named : { ...named, worklet_id: this.#workletId };
        const present = Object.entries(all).filter(([, value]) => value !== undefined);
        const body = JSON.stringify(Object.fromEntries(present.map(([key, value]) => [`p_${key}`, value])));
        if (!fits(body, MAX_REQUEST_BYTES)) {
            throw tooLarge(`A request may have ${MAX_REQUEST_BYTES} bytes; write less at a time.`);
        }
        return body;
    }
    async #answer(name, body, effect, options, tried) {
        const seconds = this.timeout + (options.wait ?? 0);
        const deadline = performance.now() + seconds * 1000;
        const mine = { name, body, deadline, seconds, signal: options.signal };
        let token = await this.tokens.current();
        for (let attempt = 0, renewals = 0;; attempt++) {
            let problem;
            let again;
            let pause = pauseAfter(attempt);
            try {
                const answer = await this.#exchange(mine, token);
                if (answer.status >= 200 && answer.status < 300)
                    return answer;
                problem = fromAnswer(answer.status, answer.body, name);
                const { code, hint } = problem;
                const stale = answer.status === 401 && STALE_TOKEN.has(code ?? "");
                if (stale && this.tokens.renewable && renewals++ === 0) {
                    token = await this.tokens.renewed();
                    continue;
                }
                const away = problem instanceof KVConnectionError;
                tried.arrived ||= away && hint !== NOT_BEGUN;
                const notDone = answer.status === 429 || BUSY.has(code ?? "") || hint === NOT_BEGUN;
                again = notDone || (away && effect !== "once");
                if (answer.status === 429)
                    pause = Math.max(pause, answer.retryAfter);
            }
            catch (error) {
                if (!(error instanceof Lost))
                    throw error;
                tried.arrived ||= error.arrived;
                again = !error.hopeless && !(error.arrived && effect === "once");
                problem = new KVConnectionError(`The store at ${this.#url.origin}: ${error.reason}.`);
            }
            if (!again || performance.now() + pause * 1000 >= deadline)
                throw problem;
            await sleep(pause, options.signal);
        }
    }
    /** Throws Lost, or the signal's reason. */
    async #exchange({ name, body, deadline, seconds, signal }, token) {
        signal?.throwIfAborted();
        const stop = new AbortController();
        const late = setTimeout(() => stop.abort(), Math.max(0, deadline - performance.now()));
        const abort = () => stop.abort();
        signal?.addEventListener("abort", abort, { once: true });
        try {
            this.#send ??= platformSender(this.#url);
            const send = await this.#send;
            const headers = { ...this.#headers, authorization: `Bearer ${token}` };
            const { status, text, retryAfter } = await send(new URL(PATH + name, this.#url), headers, body, stop.signal);
            return { status, body: jsonOf(text), retryAfter: secondsOf(retryAfter) };
        }
        catch (error) {
            signal?.throwIfAborted();
            throw stop.signal.aborted ? new Lost(`no answer within ${seconds} s`, true) : error;
        }
        finally {
            clearTimeout(late);
            signal?.removeEventListener("abort", abort);
        }
    }
}
/** Seconds before the next attempt: never zero, and different for each of many clients that lost the same server. */
export function pauseAfter(attempt) {
    return Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(attempt, 10)) * (0.5 + Math.random() / 2);
}
/** Throws the signal's reason when it is aborted. */
export function sleep(seconds, signal) {
    return new Promise((resolve, reject) => {
        const abort = () => {
            clearTimeout(timer);
            reject(signal?.reason);
        };
        const timer = setTimeout(() => {
            signal?.removeEventListener("abort", abort);
            resolve();
        }, seconds * 1000);
        signal?.addEventListener("abort", abort, { once: true });
        if (signal?.aborted)
            abort();
    });
}
function addressOf(url) {
    let address;
    try {
        address = new URL(url);
    }
    catch {
        throw invalid("The store's url is none: it must look like http://127.0.0.1:8080.");
    }
    if (!/^https?:$/.test(address.protocol) || address.username || address.password || address.search || address.hash) {
        throw invalid("The store's url must be http:// or https:// with a host and perhaps a path, and nothing else.");
    }
    address.pathname = `${address.pathname.replace(/\/+$/, "")}/`;
    return address;
}
function resultOf(name, answer, read) {
    try {
        return read(answer.body);
    }
    catch (error) {
        if (!(error instanceof TypeError))
            throw error;
        const words = `${name} answered in a way that this client does not know: one of the two is too old.`;
        throw new KVError(words, { status: answer.status });
    }
}
function jsonOf(text) {
    try {
        return JSON.parse(text);
    }
    catch {
        return undefined;
    }
}
function secondsOf(header) {
    const seconds = Number(header ?? 0);
    return seconds >= 0 ? seconds : 1; // a date is rare, and clocks differ
}
