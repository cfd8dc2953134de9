/* What the board did during the last hour: from the daemon when the page opens, then from each status. */
import { effect, signal } from "./vendor/libs.js";
import { headers, link, status } from "./daemon.js";

const KEPT = 3600; // seconds
export const samples = []; // { time, load, tokens, celsius }, oldest first; null is what was not known
export const sampled = signal(0);
export const speed = signal(null); // tokens a second, while something is answered
let counted = { time: 0, tokens: new Map() };

function rate({ time, models }) {
  const tokens = new Map(models.flatMap(({ running }) => running.map((request) => [request.id, request.tokens])));
  let made = 0;
  for (const [id, count] of tokens) made += Math.max(0, count - (counted.tokens.get(id) || 0));
  const elapsed = time - counted.time;
  counted = { time, tokens };
  return tokens.size && elapsed < 5 ? made / elapsed : null;
}

effect(() => {
  const value = status.value;
  const last = samples.at(-1)?.time || 0;
  if (!value || value.time - last < 0.95) return;
  const tokens = speed.value = rate(value);
  samples.push({ time: value.time, load: value.board.load || null, tokens: tokens ?? 0, celsius: value.board.celsius ?? null });
  while (samples[0].time < value.time - KEPT) samples.shift();
  sampled.value = value.time;
});
/* Fetched anew after each break, which the daemon may have seen and this page has not. */
let known = false;
effect(() => {
  const live = link.value.state === "live";
  if (live && !known) load();
  known = live;
});

async function load() {
  try {
    const response = await fetch("/v1/history", { headers: headers() });
    if (!response.ok) return;
    const past = (await response.json()).samples;
    const first = samples.findIndex(({ time }) => time > (past.at(-1)?.time || 0));
    samples.splice(0, first < 0 ? samples.length : first, ...past);
    sampled.value += 1e-6;
  } catch { /* the page shows what it sees itself */ }
}
