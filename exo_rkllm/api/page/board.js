/* The board beside the chat: its cores and what they make, its readings, models, queue and cluster. */
import { signal, useLayoutEffect, useRef, useSignal } from "./vendor/libs.js";
import { focus, html } from "./html.js";
import { gigabytes, list, number, plural, span } from "./format.js";
import { act, now, status } from "./daemon.js";
import { openGallery, Pulls } from "./gallery.js";
import { sampled, samples, speed } from "./history.js";
import { fit } from "./models.js";

const WINDOWS = { "2 minutes": 120, "1 hour": 3600 };
const GAP = 15; // seconds without a sample, after which a line is broken

const resized = signal(0);
window.addEventListener("resize", () => { resized.value += 1; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { resized.value += 1; });

function absent(board, ...names) {
  const name = names.find((one) => board.absent?.[one]);
  return name ? board.absent[name] : "this daemon was given no board";
}

/* ── lanes ────────────────────────────────────────────────────────────────────────────────────── */

function trace(canvas, seconds, colour, value, top) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.scale(scale, scale);
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.strokeRect(-1, Math.round(height / 2) + 0.5, width + 2, 0);
  pen.strokeStyle = pen.fillStyle = style.getPropertyValue(colour);
  pen.lineWidth = 1.6;
  pen.lineJoin = "round";
  const end = samples.at(-1)?.time || 0;
  let run = [];
  const flush = () => {
    if (run.length) {
      pen.beginPath();
      for (const [x, y] of run) pen.lineTo(x, y);
      pen.lineTo(run.at(-1)[0] + 0.5, run.at(-1)[1]);
      pen.stroke();
      pen.lineTo(run.at(-1)[0] + 0.5, height);
      pen.lineTo(run[0][0], height);
      pen.globalAlpha = 0.16;
      pen.fill();
      pen.globalAlpha = 1;
    }
    run = [];
  };
  let before = 0;
  for (const sample of samples) {
    if (sample.time < end - seconds - GAP) continue;
    const one = value(sample);
    if (one == null || sample.time - before > GAP) flush();
    if (one != null) run.push([width * (1 - (end - sample.time) / seconds), height - 2 - Math.min(1, one / top) * (height - 5)]);
    before = sample.time;
  }
  flush();
}

function Lane({ name, kind, colour, label, text, reason, seconds, value, top = 1 }) {
  const canvas = useRef();
  const moment = sampled.value;
  useLayoutEffect(() => trace(canvas.current, seconds, colour, value, top), [moment, seconds, top, resized.value]);
  return html`<div class=${`lane ${kind}`} title=${reason}><span class="name">${name}</span>
    <canvas role="img" aria-label=${`${name}: ${label}`} ref=${canvas}></canvas><span class="value">${text}</span></div>`;
}

/* A fault of the NPU in the kernel's log; one that stops it is the notice above everything. */
const told = (log) => log?.sentence && !log.stops;

function Npu({ board }) {
  const chosen = useSignal("2 minutes");
  const seconds = WINDOWS[chosen.value];
  const cores = board.load?.length || samples.findLast(({ load }) => load)?.load.length || 0;
  const others = Object.keys(board.neighbours?.names || {});
  const made = speed.value;
  const fastest = Math.max(10, ...samples.map(({ tokens }) => tokens || 0));
  const lease = status.value.lease?.name;
  return html`<section id="npu" class="card" aria-labelledby="npu-title">
    <div class="head"><h2 id="npu-title">NPU</h2>
      <p id="npu-state" class="aside">${list(board.powered === false && "powered off until there is work", lease && `lent to ${lease}`, others.length && `also open in ${others.join(", ")}`)}</p>
      <select aria-label="Time that the lanes show" class="small" value=${chosen.value} onchange=${(event) => { chosen.value = event.target.value; }}>
        ${Object.keys(WINDOWS).map((name) => html`<option>${name}</option>`)}</select></div>
    <div id="lanes" class="lanes">
      <${Lane} name="Tokens" kind="tokens" colour="--accent" seconds=${seconds} top=${fastest} value=${({ tokens }) => tokens}
        label=${made == null ? "nothing is being answered" : `${made.toFixed(1)} a second`} text=${made == null ? "–" : html`${made < 100 ? made.toFixed(1) : Math.round(made)}<small>/s</small>`} />
      ${cores === 0 && html`<p class="absent"><b>Use of the cores is not readable: </b>${absent(board, "load")}</p>`}
      ${Array.from({ length: cores }, (_, core) => {
        const load = board.load?.[core];
        const text = load == null ? "–" : `${Math.round(load * 100)}%`;
        const reason = load == null ? absent(board, "load") : "";
        return html`<${Lane} key=${core} name=${`Core ${core}`} kind=${`c${core % 3}`} colour=${`--core-${core % 3}`} seconds=${seconds}
          value=${(sample) => sample.load?.[core]} text=${text} reason=${reason} label=${reason ? `not readable, ${reason}` : text} />`;
      })}
    </div>
    ${told(board.kernel_log) && html`<p id="npu-fault" class="trouble">${board.kernel_log.sentence} ${board.kernel_log.hint}</p>`}
    <${Readouts} board=${board} />
  </section>`;
}

function Readout({ name, id, value, unit, below, kind = "", children }) {
  return html`<div><dt>${name}</dt><dd id=${id}>${value == null ? html`<span class="none">not readable</span>` : html`<span class=${`big ${kind}`}>${value}<span class="unit">${unit}</span></span>`}
    ${children}<small>${below}</small></dd></div>`;
}

function Readouts({ board }) {
  const { clock, celsius, volts, memory_total: all, memory_available: left } = board;
  const used = all != null && left != null ? all - left : null;
  return html`<dl class="readouts">
    <${Readout} name="Clock" id="clock" value=${clock && (clock.hertz / 1e9).toFixed(2)} unit="GHz" kind=${clock?.throttled ? "warm" : ""}
      below=${clock ? list(clock.throttled ? "held down by heat" : "", volts && `${volts.toFixed(2)} V`) : absent(board, "clock")} />
    <${Readout} name="Temperature" id="temperature" value=${celsius?.toFixed(0)} unit="°C" kind=${celsius >= 85 ? "hot" : celsius >= 75 ? "warm" : ""}
      below=${celsius == null ? absent(board, "temperature") : ""} />
    <${Readout} name="Memory" id="memory" value=${used == null ? null : (used / 1e9).toFixed(1)} unit="GB" below=${used == null ? absent(board, "memory") : `of ${gigabytes(all)}`} />
  </dl>`;
}

/* ── models ───────────────────────────────────────────────────────────────────────────────────── */

const WORDS = { cold: "not loaded", ready: "loaded", loading: "loading", closing: "unloading", failed: "failed" };

function Model({ model }) {
  const busy = model.running.length > 0;
  const live = model.state === "ready" || model.state === "loading";
  const reason = fit(model);
  const about = list(
    model.quantization,
    model.context && `${number(model.context)} tokens of context`,
    (live || model.state === "closing") && model.memory ? `${gigabytes(model.memory)} in memory` : model.size && gigabytes(model.size),
    model.images && "sees pictures",
    model.runtime && `runtime ${model.runtime}, ${model.runtime_reason}`,
    model.pictures?.shown > 0 && `${plural(model.pictures.shown, "picture")}, ${model.pictures.encoded} encoded in ${model.pictures.seconds.toFixed(1)} s`,
    model.pictures?.refused > 0 && `${plural(model.pictures.refused, "picture")} refused`,
    model.pinned ? "pinned" : !busy && model.state === "ready" && model.unload_at && `unloads in ${span(model.unload_at - now.value)}`,
    model.retry_at && `tried again in ${span(model.retry_at - now.value)}`,
  );
  const verb = live ? "unload" : "load";
  const asking = useSignal(false);
  const words = busy ? "answering" : model.state === "cold" && reason ? "does not fit" : WORDS[model.state];
  return html`<li data-key=${model.name}><div class="what"><p class="name">${model.title}</p><p class="meta">${about}</p>
      ${model.error && html`<p class="trouble">${model.error} ${model.hint}</p>`}
      ${reason && !live && html`<p class="trouble">${reason}</p>`}
      ${model.state === "loading" && html`<${Loading} model=${model} />`}</div>
    <span class=${`state ${busy ? "running" : reason && !live ? "failed" : model.state}`}>${words}</span>
    ${status.value.may.control && (asking.value ? html`<span class="acts" role="group" aria-label=${`Remove ${model.title} and its files?`}>
      <button type="button" class="stop" ref=${focus} onclick=${() => act("/api/delete", { method: "DELETE", body: JSON.stringify({ model: model.name }) })}>Remove files</button>
      <button type="button" class="quiet" onclick=${() => { asking.value = false; }}>Keep</button></span>`
    : html`<span class="acts"><button type="button" class="quiet" disabled=${model.state === "closing"} aria-label=${`${live ? "Unload" : "Load"} ${model.title}`}
      onclick=${() => act(`/v1/models/${encodeURIComponent(model.name)}/${verb}`)}>${live ? "Unload" : "Load"}</button>
      ${!busy && html`<button type="button" class="plain" aria-label=${`Remove ${model.title}`} title="Remove the model and its files" onclick=${() => { asking.value = true; }}>✕</button>`}</span>`)}
  </li>`;
}

function Loading({ model }) {
  const seconds = Math.max(0, now.value - model.since);
  return html`<progress aria-label=${`Loading ${model.title}`} max="1" value=${model.load_seconds ? Math.min(0.98, seconds / model.load_seconds) : null}></progress>`;
}

function Models() {
  const { models, problems, may, pulls = [] } = status.value;
  const loaded = models.filter(({ state }) => state === "ready").length;
  return html`<section id="models" class="card" aria-labelledby="models-title">
    <div class="head"><h2 id="models-title">Models</h2><p class="aside">${models.length > 0 && `${loaded} of ${models.length} loaded`}</p>
      ${may.load && html`<button id="open-gallery" type="button" class="plain" aria-haspopup="dialog" onclick=${openGallery}>Find models</button>`}</div>
    <ul id="model-list" class="rows"><${Pulls} />
      ${models.map((model) => html`<${Model} key=${model.name} model=${model} />`)}
      ${problems.map((one) => html`<li key=${`problem ${one.folder}`}><div class="what"><p class="name">${one.folder}</p><p class="trouble">${one.sentence}</p><p class="meta">${one.hint}</p></div></li>`)}
      ${models.length + problems.length + pulls.length === 0 && html`<li><p class="empty">No model is here yet. <code>exo-rkllm search qwen3</code> finds some for this board.</p></li>`}
    </ul>
    ${!may.control && models.length > 0 && html`<p id="models-note" class="meta">Loading and unloading by hand needs a key with the right to control, or <code>exo-rkllm load</code>.</p>`}
  </section>`;
}

/* ── queue and cluster ────────────────────────────────────────────────────────────────────────── */

function Queue() {
  const { models, waiting } = status.value;
  const row = (request, model, what, figure, kind = "") => html`<li key=${request.id}><div class="what"><p class="name">${request.client || "someone"}</p><p class="meta">${model.title}</p></div>
    <span class=${`state ${kind}`}>${what}</span><span class="figure">${figure}</span></li>`;
  const rows = models.flatMap((model) => [
    ...model.running.map((request) => row(request, model, "answering", plural(request.tokens, "token"), "running")),
    ...model.waiting.map((request) => row(request, model, `${request.ahead} ahead`, `waits ${span(now.value - request.since)}`)),
  ]);
  return html`<section id="queue" class="card" aria-labelledby="queue-title">
    <div class="head"><h2 id="queue-title">Queue</h2><p class="aside">${waiting > 0 && `${waiting} waiting`}</p></div>
    <ul id="queue-list" class="rows">${rows.length ? rows : html`<li><p class="empty">Nobody is waiting.</p></li>`}</ul>
  </section>`;
}

function Cluster() {
  const cluster = status.value.cluster || {};
  const nodes = cluster.nodes || [], instances = cluster.instances || [];
  const serving = cluster.phase === "serving";
  const nameOf = (node) => node.name || node.id.slice(0, 12);
  const master = nodes.find((node) => node.id === cluster.master || node.master);
  const sentence = cluster.sentence || (serving ? `This board serves in the cluster; ${master ? `${nameOf(master)} is its master` : "its master is not known"}.` : "This board is in no exo cluster.");
  const facts = [cluster.lag && `${cluster.lag} events behind`, cluster.tasks && `${plural(cluster.tasks, "task")} in hand`, ...(cluster.drift || []), ...(cluster.notes || []), ...(cluster.other_clusters || []),
    ...(cluster.offers || []).filter(({ offered }) => !offered).map(({ model, reason }) => `${model} is not offered: ${reason}`)].filter(Boolean);
  const notice = cluster.announcement;
  return html`<section id="cluster" class="card" aria-labelledby="cluster-title">
    <div class="head"><h2 id="cluster-title">Cluster</h2><p class="aside">${nodes.length > 0 && `${plural(nodes.length, "node")}, cluster ${cluster.namespace}`}</p></div>
    <p class=${serving ? "" : "empty"}>${sentence}${cluster.hint ? ` ${cluster.hint}` : ""}</p>
    ${notice && html`<p class="trouble">${notice.sentence} ${notice.hint}.</p>`}
    ${facts.map((fact) => html`<p class="meta">${fact}</p>`)}
    ${nodes.length + instances.length > 0 && html`<ul id="cluster-list" class="rows">
      ${nodes.map((node) => html`<li key=${node.id}><div class="what"><p class="name">${nameOf(node)}</p><p class="meta">${list(node.model, node.chip)}</p></div>
        ${node.me && html`<span class="state ready">this board</span>`}${node.master && html`<span class="state">master</span>`}</li>`)}
      ${instances.map((one) => html`<li key=${one.id}><div class="what"><p class="name">${one.model}</p><p class="meta">on ${one.node}</p></div>
        ${one.tasks > 0 && html`<span class="figure">${plural(one.tasks, "task")}</span>`}<span class=${`state ${one.mine ? "ready" : ""}`}>${one.status}</span></li>`)}</ul>`}
  </section>`;
}

/* ── all of it ────────────────────────────────────────────────────────────────────────────────── */

export function Board() {
  const value = status.value;
  if (!value) return html`<aside id="board-side" aria-label="Board"><div class="card"><p class="empty">Waiting for the daemon …</p></div></aside>`;
  return html`<aside id="board-side" aria-label="Board">
    <${Npu} board=${value.board || {}} /><${Models} /><${Queue} /><${Cluster} />
    <footer><span id="version">exo-rkllm ${value.version}</span> <a href="/metrics">metrics</a> <a href="/openapi.json">API</a></footer>
  </aside>`;
}
