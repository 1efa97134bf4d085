// Requests for runs: only what is new, again and again.

import { send } from "./server.js";

const TIMEOUT = 20_000; // milliseconds

/** Ask for an address again and again; `ask` resolves to the JSON, or to null while nothing changed. */
export class Polled {
  #tag = "";
  #address = "";

  async ask(address) {
    const headers = this.#tag && address === this.#address ? { "If-None-Match": this.#tag } : {};
    const { value, tag } = await send(address, { headers, timeout: TIMEOUT });
    if (value !== null) [this.#tag, this.#address] = [tag, address];
    return value;
  }
}

/** Fetch a file of a run as a blob: an <img> or a link could not carry the token. */
export async function fetchFile(address) {
  return (await send(address, { kind: "blob", timeout: TIMEOUT })).value;
}
