/** One HTTP request and its answer, by fetch or, in Node, by its own client, which needs a third of the processor. */

import { nodeProgram } from "./environment.js";

export interface Reply {
  status: number;
  text: string;
  /** The header of that name. */
  retryAfter: string | null;
}

/** Sends a POST. Throws Lost; what it throws when the signal is aborted does not matter. Follows no redirection. */
export type Send = (url: URL, headers: Record<string, string>, body: string, signal: AbortSignal) => Promise<Reply>;

/** An exchange broke off. `arrived`: the request may have been carried out. `hopeless`: it will not go better again. */
export class Lost extends Error {
  constructor(
    readonly reason: string,
    readonly arrived: boolean,
    readonly hopeless = false,
  ) {
    super(reason);
  }
}

/** There was no connection over which anything could have been sent. */
const NOT_CONNECTED = /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT)$/;
const UNTRUSTED = /^(ERR_TLS_CERT|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_(VERIFY|GET_ISSUER))/;

export function fetchSender(given: typeof fetch): Send {
  return async (url, headers, body, signal) => {
    try {
      // A plain variable: a browser's fetch refuses to be called as another object's method.
      const response = await given(url, { method: "POST", headers, body, redirect: "manual", signal });
      const text = await response.text();
      return { status: response.status, text, retryAfter: response.headers.get("retry-after") };
    } catch (error) {
      throw lost((error as { cause?: unknown }).cause ?? error);
    }
  };
}

interface Incoming {
  statusCode: number;
  headers: Record<string, string | undefined>;
  complete: boolean;
  setEncoding(encoding: "utf8"): void;
  on(event: "data", listener: (text: string) => void): void;
  on(event: "close", listener: () => void): void;
  on(event: "error", listener: (error: unknown) => void): void;
}

interface Outgoing {
  on(event: "error", listener: (error: unknown) => void): void;
  end(body: string): void;
}

interface NodeHttp {
  Agent: new (options: { keepAlive: boolean; timeout: number }) => unknown;
  request(url: URL, options: Record<string, unknown>, answered: (incoming: Incoming) => void): Outgoing;
}

const IDLE_MILLISECONDS = 4000; // after which a connection that nobody uses is closed

/** Of Node's own client; of fetch where there is no Node, or no such module. */
export async function platformSender(url: URL): Promise<Send> {
  if (!nodeProgram()) return fetchSender(globalThis.fetch);
  // Not a literal, so that no bundler for browsers looks for the module.
  const name = url.protocol === "https:" ? "node:https" : "node:http";
  try {
    return nodeSender((await import(name)) as NodeHttp);
  } catch {
    return fetchSender(globalThis.fetch);
  }
}

function nodeSender(http: NodeHttp): Send {
  const agent = new http.Agent({ keepAlive: true, timeout: IDLE_MILLISECONDS });
  return (url, headers, body, signal) =>
    new Promise<Reply>((resolve, reject) => {
      const fail = (error: unknown): void => reject(lost(error));
      const request = http.request(url, { method: "POST", agent, headers, signal }, (incoming) => {
        let text = "";
        incoming.setEncoding("utf8");
        incoming.on("data", (piece) => (text += piece));
        incoming.on("error", fail);
        incoming.on("close", () => {
          const { statusCode: status, headers: told } = incoming;
          if (incoming.complete) resolve({ status, text, retryAfter: told["retry-after"] ?? null });
          else reject(new Lost("the answer ended in its middle", true));
        });
      });
      request.on("error", fail);
      request.end(body);
    });
}

function lost(error: unknown): Lost {
  const { code, message } = error as { code?: unknown; message?: unknown };
  const word = typeof code === "string" ? code : "";
  if (UNTRUSTED.test(word)) return new Lost(`its certificate is not trusted (${word})`, false, true);
  const words = typeof message === "string" ? message : "";
  const known = words.includes(word) ? words : `${word}: ${words}`;
  return new Lost(known || "the connection broke off", !NOT_CONNECTED.test(word));
}
