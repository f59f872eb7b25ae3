/** An HTTP server that answers each request with the next part of a script; the requests are kept. */

import { once } from "node:events";
import { createServer } from "node:http";

/** A part is a function `(response, request) => …`, or [status, body, headers]. The last one is used again and again. */
export function serve(...script) {
  return serveAt(0, ...script);
}

/** At a port of loopback; 0: any that is free. */
export async function serveAt(port, ...script) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    const { url, method, headers } = request;
    requests.push({ url, method, headers, body: JSON.parse(body), port: request.socket.remotePort });
    const part = script[Math.min(requests.length, script.length) - 1];
    if (typeof part === "function") part(response, request);
    else answer(response, ...part);
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    requests,
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

export function answer(response, status, body, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(typeof body === "string" ? body : JSON.stringify(body));
}

export const drop = (response) => response.socket.destroy();
export const refusal = (code, hint = null, message = "words") => ({ code, message, details: null, hint });
