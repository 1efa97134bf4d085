// Requests to the server: token, refusals, and answers in words.

const TOKEN_KEY = "resnext-token";
const TIMEOUT = 120_000; // milliseconds until a request counts as lost
const LONGEST_WAIT = 120; // seconds

/** The server cannot take the request now; it names the seconds after which to ask again. */
export class BusyError extends Error {
  constructor(message, seconds) {
    super(message);
    this.seconds = seconds;
  }
}

/** The server wants a bearer token, or another one than it got. */
export class TokenError extends Error {}

/** No answer came: the server is stopped, or the network is down. */
export class GoneError extends Error {}

let heldToken = ""; // where storage is forbidden, the token holds until its page is left

export function readToken() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? heldToken;
  } catch {
    return heldToken;
  }
}

export function storeToken(token) {
  heldToken = token;
  try {
    sessionStorage.setItem(TOKEN_KEY, token);
  } catch {
    // heldToken has it
  }
}

/** Return the seconds of a Retry-After header, which is a number of seconds or a date. */
export function parseRetryAfter(value, now = Date.now()) {
  const text = (value ?? "").trim();
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : (Date.parse(text) - now) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 1), LONGEST_WAIT) : 2;
}

/**
 * Send a request, with the token if there is one. Return {value, tag}: the answer as ``kind`` (json or blob; null without
 * content or news) and its ETag. Else throw one of the errors above, or an Error with the status.
 */
export async function send(path, { kind = "json", signal, timeout = TIMEOUT, ...options } = {}) {
  const headers = new Headers(options.headers);
  const token = readToken();
  if (token) headers.set("Authorization", `Bearer ${token}`);
  const limit = AbortSignal.timeout(timeout);
  const either = signal ? AbortSignal.any([signal, limit]) : limit;
  let response;
  let value = null;
  try {
    response = await fetch(path, { ...options, headers, signal: either, cache: "no-store" });
    if (response.ok && response.status !== 204) value = await response[kind]();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (limit.aborted) throw new GoneError(`The server did not answer within ${timeout / 1000} seconds.`);
    if (error instanceof SyntaxError) throw new Error("The answer is not JSON: is this address that of resnext serve?");
    throw new GoneError("The server cannot be reached. It may have been stopped, or the network is down.");
  }
  if (!response.ok && response.status !== 304) throw await readRefusal(response, token);
  return { value, tag: response.headers.get("ETag") ?? "" };
}

async function readRefusal(response, token) {
  let detail = "";
  try {
    detail = String((await response.json()).detail ?? "");
  } catch {
    // not a problem of RFC 9457: the status has to do
  }
  if (response.status === 401) {
    return new TokenError(token ? "The server did not accept this token." : "This server asks for a token.");
  }
  if (response.status === 429 || response.status === 503) {
    const reason = response.status === 429 ? "The server is busy" : "The server is not ready";
    const words = detail ? `${reason} (${response.status}): ${detail.replace(/\.?$/, ".")}` : `${reason} (${response.status}).`;
    return new BusyError(words, parseRetryAfter(response.headers.get("Retry-After")));
  }
  const error = new Error(detail || `The server refused the request with status ${response.status}.`);
  return Object.assign(error, { status: response.status });
}

export async function listModels() {
  const { value } = await send("v1/models");
  if (!Array.isArray(value?.models)) throw new Error("The list of models has an unknown form.");
  return value.models;
}

/** Return whether the server shows training runs. Without runs it answers 204: a 404 would stand in the console. */
export async function hasRuns() {
  try {
    return (await send("v1/runs")).value !== null;
  } catch {
    return false;
  }
}

/** Send the bytes of an image file as they are, and return the server's answer. */
export async function predict(model, file, signal) {
  const query = new URLSearchParams({ model: model.name, view: "1" });
  if (model.task === "detection") query.set("score", "0.05");
  else query.set("top", String(Math.min(10, model.classes)));
  if (model.has_cam) query.set("explain", "1");
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return (await send(`v1/predict?${query}`, { method: "POST", body: file, headers, signal })).value;
}
