/* What the daemon says: one connection to /v1/events, and the requests of this page. */
import { batch, signal } from "./vendor/libs.js";

const LONGEST_PAUSE = 5000;
const SLICE = 10; // milliseconds of work on events between two frames
const SILENCE = 5000; // the daemon speaks once a second

export const status = signal(null); // the latest status
export const link = signal({ state: "connecting" }); // connecting, live, stopping (since), lost (since, detail) or key
export const apiKey = signal(sessionStorage.getItem("key") || "");
export const problem = signal(null); // what a button's request ended with: { text }
export const now = signal(0); // the daemon's clock, seconds since the epoch, once a second
let skew = 0; // the daemon's clock minus ours
let connection = new AbortController();

export class DaemonError extends Error {
  constructor(message, code = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

export const headers = () => (apiKey.value ? { Authorization: `Bearer ${apiKey.value}` } : {});

export function useKey(key) {
  apiKey.value = key;
  if (key) sessionStorage.setItem("key", key);
  else sessionStorage.removeItem("key");
  problem.value = null;
  connection.abort();
}

/* The error that a response stands for. */
export async function refusal(response) {
  try {
    const { error } = await response.json();
    return new DaemonError(error.message || error, error.code, response.status);
  } catch {
    return new DaemonError(`The daemon answered ${response.status} ${response.statusText}.`, "", response.status);
  }
}

/* fetch, with the key, whose errors are sentences. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new DaemonError("The daemon cannot be reached.", "unreachable");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export const postJson = (path, body, options = {}) =>
  ask(path, { method: "POST", body: JSON.stringify(body), ...options, headers: { "Content-Type": "application/json", ...options.headers } });

export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let rested = performance.now();
      let end, begin = 0;
      while ((end = buffer.indexOf("\n\n", begin)) >= 0) {
        const data = buffer.slice(begin, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        begin = end + 2;
        if (data.length) yield data.join("\n");
        if (performance.now() - rested > SLICE) {
          await new Promise((resolve) => setTimeout(resolve)); // events that come in a burst must not hold the page
          rested = performance.now();
        }
      }
      buffer = buffer.slice(begin);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export async function act(path, options = {}) {
  problem.value = null;
  try {
    await ask(path, { method: "POST", ...options, headers: { "Content-Type": "application/json" } });
  } catch (error) {
    problem.value = { text: error.message };
  }
}

function lost(detail) {
  const { since } = link.value;
  link.value = { state: "lost", since: since || new Date(), detail };
}

/* A status, or what of the latest one has changed: only the first has the version. */
function merged(value) {
  if (value.version) return value;
  const changed = new Map((value.models || []).map((model) => [model.name, model]));
  const models = changed.size ? status.value.models.map((model) => changed.get(model.name) || model) : status.value.models;
  return { ...status.value, ...value, models };
}

const sleep = (milliseconds, ...signals) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  for (const one of signals) one.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
});

/* Never returns. Whoever sees the page again does not wait for the next attempt. */
export async function follow() {
  let pause = 500;
  let wake = new AbortController();
  const again = () => { wake.abort(); wake = new AbortController(); };
  window.addEventListener("online", again);
  document.addEventListener("visibilitychange", () => document.hidden || again());
  setInterval(() => { if (status.value) now.value = Date.now() / 1000 + skew; }, 1000);
  for (;;) {
    const attempt = connection = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => attempt.abort("silence"), SILENCE);
    };
    try {
      heard();
      const response = await fetch("/v1/events", { headers: headers(), signal: attempt.signal });
      if (response.status === 401) {
        clearTimeout(silence);
        batch(() => {
          link.value = { state: "key" };
          if (apiKey.value) problem.value = { text: "The daemon does not know this key." };
        });
        await new Promise((resolve) => attempt.signal.addEventListener("abort", resolve));
        continue;
      }
      if (!response.ok) throw await refusal(response);
      for await (const data of serverEvents(response)) {
        heard();
        const value = merged(JSON.parse(data));
        skew = value.time - Date.now() / 1000;
        pause = 500;
        batch(() => {
          status.value = value;
          now.value = value.time;
          const state = value.draining ? "stopping" : "live";
          if (link.value.state !== state) link.value = value.draining ? { state, since: new Date() } : { state };
        });
      }
      if (!status.value?.draining) lost("The daemon has ended the connection.");
    } catch (error) {
      if (attempt.signal.aborted && attempt.signal.reason !== "silence") continue; // another key
      lost(attempt.signal.aborted ? "The daemon is silent." : error instanceof DaemonError ? error.message : "Nothing answers at this address.");
    } finally {
      clearTimeout(silence);
    }
    await sleep(pause, attempt.signal, wake.signal);
    pause = Math.min(pause * 1.6, LONGEST_PAUSE);
  }
}
