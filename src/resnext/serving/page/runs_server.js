// Requests for runs: only what is new, with the token if there is one.

import { BusyError, GoneError, parseRetryAfter, readToken, TokenError } from "./server.js";

const TIMEOUT = 20_000; // milliseconds

/** Ask for an address again and again; `ask` resolves to the JSON, or to null while nothing changed. */
export class Polled {
  #tag = "";
  #address = "";

  async ask(address) {
    const headers = { ...authorize() };
    if (this.#tag && address === this.#address) headers["If-None-Match"] = this.#tag;
    const response = await send(address, headers);
    if (response.status === 304) return null;
    if (!response.ok) throw await readRefusal(response);
    const value = await response.json();
    this.#tag = response.headers.get("ETag") ?? "";
    this.#address = address;
    return value;
  }
}

/** Fetch a file of a run as a blob: an <img> or a link could not carry the token. */
export async function fetchFile(address) {
  const response = await send(address, authorize());
  if (!response.ok) throw await readRefusal(response);
  return response.blob();
}

function authorize() {
  const token = readToken();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function send(address, headers) {
  try {
    return await fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
  } catch {
    throw new GoneError("The server cannot be reached. It may have been stopped; this page asks again.");
  }
}

async function readRefusal(response) {
  if (response.status === 401) {
    return new TokenError(readToken() ? "The server did not accept this token." : "This server asks for a token.");
  }
  if (response.status === 429 || response.status === 503) {
    return new BusyError("The server is busy; this page asks again.", parseRetryAfter(response.headers.get("Retry-After")));
  }
  const problem = await response.json().catch(() => ({}));
  const error = new Error(String(problem.detail ?? `The server answered with status ${response.status}.`));
  error.status = response.status;
  return error;
}
