"use strict";
/* Draws what /v1/events tells. Text from the daemon becomes text nodes only, never markup. */

const $ = (id) => document.getElementById(id);
const KEPT = 120; // seconds that a lane shows
let state = null;
let past = []; // one array of loads (or null) a second
let lastSample = 0;
let key = sessionStorage.getItem("key") || "";
let counted = { at: 0, tokens: new Map(), speed: null };

/* ── small things ─────────────────────────────────────────────────────────────────────────────── */

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}
const put = (node, ...children) => node.replaceChildren(...children.flat().filter((child) => child != null));
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
const gigabytes = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e6)} MB`);
function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
  return `${(whole / 3600).toFixed(1)} h`;
}

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const data = buffer.slice(0, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      buffer = buffer.slice(end + 2);
      if (data.length) yield data.join("\n");
    }
  }
}

async function told(response) {
  try {
    const body = await response.json();
    return body.error?.message || body.error || response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

function pill(text, kind) {
  if ($("pill").textContent !== text) $("pill").textContent = text;
  $("pill").className = `pill ${kind}`;
}
function notice(text, hint = "") {
  $("notice").hidden = !text;
  $("notice-text").textContent = text;
  $("notice-hint").textContent = hint;
}

/* ── the connection ───────────────────────────────────────────────────────────────────────────── */

let connection = new AbortController();
async function follow() {
  let pause = 500;
  for (;;) {
    connection = new AbortController();
    try {
      const response = await fetch("/v1/events", { headers: headers(), signal: connection.signal });
      if (response.status === 401) {
        pill("key needed", "bad");
        notice(await told(response));
        if (!$("key-box").open) $("key-box").showModal();
        await new Promise((resolve) => connection.signal.addEventListener("abort", resolve));
        continue;
      }
      if (!response.ok) throw new Error(await told(response));
      pause = 500;
      for await (const data of serverEvents(response)) {
        state = JSON.parse(data);
        draw();
      }
      throw new Error("The daemon has stopped.");
    } catch (error) {
      if (connection.signal.aborted) continue;
      pill("no connection", "bad");
      notice("No connection to the daemon; trying again.", error.message);
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, 10000);
    }
  }
}

/* ── drawing ──────────────────────────────────────────────────────────────────────────────────── */

function draw() {
  const board = state.board || {};
  $("board").textContent = board.title || "exo-rkllm";
  document.title = `${board.title || "exo-rkllm"} · exo-rkllm`;
  const driver = board.driver ? `${board.driver.name} driver ${board.driver.version || "of unknown version"}` : null;
  const tops = board.tops ? `${board.tops} TOPS` : null;
  $("facts").textContent = [board.soc, tops, driver, board.kernel && `Linux ${board.kernel}`].filter(Boolean).join(" · ") || "exo-rkllm";
  $("version").textContent = `exo-rkllm ${state.version}`;
  if (state.draining) pill("stopping", "waiting");
  else if (state.unavailable_reason || (state.stuck || []).length) pill("cannot run", "bad");
  else pill(state.running ? "answering" : "ready", "good");
  const stuck = (state.stuck || [])[0];
  if (stuck && !state.unavailable_reason) notice(stuck.sentence, stuck.hint);
  else notice(state.unavailable_reason, state.hint);
  sample(board);
  drawNpu(board);
  drawSpeed();
  drawModels();
  drawQueue();
  drawCluster();
  drawPicker();
}

function sample(board) {
  if (state.time - lastSample < 0.95) return;
  lastSample = state.time;
  past.push(board.load || null);
  past = past.slice(-KEPT);
}

function absent(board, ...names) {
  const reasons = board.absent || {};
  const found = names.find((name) => reasons[name]);
  return found ? reasons[found] : "this daemon was given no board";
}

function drawNpu(board) {
  const asleep = board.powered === false;
  $("npu-state").textContent = asleep ? "powered off until there is work" : "last two minutes";
  const others = Object.keys(board.neighbours?.names || {});
  if (others.length) $("npu-state").textContent += ` · also open in ${others.join(", ")}`;
  const cores = board.load?.length || past.findLast((loads) => loads)?.length || 0;
  if (!cores) {
    put($("lanes"), h("p", { class: "absent" }, h("b", {}, "Use of the cores is not readable: "), absent(board, "load")));
  } else {
    if ($("lanes").querySelectorAll("canvas").length !== cores) {
      put($("lanes"), Array.from({ length: cores }, (_, core) =>
        h("div", { class: `lane c${core % 3}` }, h("span", { class: "name" }, `Core ${core}`),
          h("canvas", { role: "img" }), h("span", { class: "value" }))));
    }
    [...$("lanes").children].forEach((lane, core) => {
      const load = board.load?.[core];
      const text = load == null ? "–" : `${Math.round(load * 100)}%`;
      lane.querySelector(".value").textContent = text;
      lane.querySelector("canvas").setAttribute("aria-label", load == null ? `Core ${core}: not readable, ${absent(board, "load")}` : `Core ${core}: ${text}`);
      lane.title = load == null ? absent(board, "load") : "";
      trace(lane.querySelector("canvas"), core);
    });
  }
  const clock = board.clock;
  readout("clock", clock && [(clock.hertz / 1e9).toFixed(2), "GHz"],
    clock ? [clock.throttled ? "held down by heat" : clock.governor && `governor ${clock.governor}`] : [absent(board, "clock")],
    clock?.throttled ? "warm" : "");
  const heat = board.celsius;
  readout("temperature", heat != null && [heat.toFixed(0), "°C"], heat == null ? [absent(board, "temperature")] : [], heat >= 85 ? "hot" : heat >= 75 ? "warm" : "");
  const all = board.memory_total, left = board.memory_available;
  const used = all != null && left != null ? all - left : null;
  readout("memory", used != null && [(used / 1e9).toFixed(1), "GB"],
    used == null ? [absent(board, "memory")]
      : [h("progress", { max: 1, value: (used / all).toFixed(3), "aria-label": "Memory in use" }), `of ${gigabytes(all)}`]);
}

function readout(id, value, below = [], kind = "") {
  const big = value ? h("span", { class: `big ${kind}` }, value[0], h("span", { class: "unit" }, value[1])) : h("span", { class: "none" }, "not readable");
  put($(id), big, h("small", {}, ...below.filter(Boolean)));
}

function trace(canvas, core) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = style.getPropertyValue(`--core-${core % 3}`).trim();
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.strokeStyle = style.getPropertyValue("--line").trim();
  pen.lineWidth = 1;
  pen.beginPath();
  for (const part of [0.5]) { pen.moveTo(0, Math.round(height * part) + 0.5); pen.lineTo(width, Math.round(height * part) + 0.5); }
  pen.stroke();
  const step = width / (KEPT - 1), base = height - 2, span = height - 5;
  const first = KEPT - past.length;
  let run = [];
  const flush = () => {
    if (!run.length) return;
    pen.beginPath();
    run.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (run.length === 1) pen.lineTo(run[0][0] + 0.5, run[0][1]);
    pen.strokeStyle = colour;
    pen.lineWidth = 1.6;
    pen.lineJoin = "round";
    pen.stroke();
    pen.lineTo(run[run.length - 1][0], height);
    pen.lineTo(run[0][0], height);
    pen.globalAlpha = 0.16;
    pen.fillStyle = colour;
    pen.fill();
    pen.globalAlpha = 1;
    run = [];
  };
  past.forEach((loads, index) => {
    const load = loads?.[core];
    if (load == null) flush();
    else run.push([(first + index) * step, base - load * span]);
  });
  flush();
}

function drawSpeed() {
  const now = new Map();
  for (const model of state.models) for (const request of model.running) now.set(request.id, request.tokens);
  const elapsed = state.time - counted.at;
  if (elapsed >= 0.8) {
    let made = 0;
    for (const [id, tokens] of now) made += Math.max(0, tokens - (counted.tokens.get(id) || 0));
    counted = { at: state.time, tokens: now, speed: now.size ? made / elapsed : null };
  }
  const people = state.running === 1 ? "one answer" : `${state.running} answers`;
  const speed = counted.speed;
  put($("speed"), state.running && speed != null
    ? h("span", { class: "big" }, speed < 100 ? speed.toFixed(1) : Math.round(speed), h("span", { class: "unit" }, "tokens/s"))
    : h("span", { class: "none" }, "idle"), h("small", {}, state.running ? people : "nothing is being answered"));
}

function drawModels() {
  const loaded = state.models.filter((model) => model.state === "ready").length;
  $("models-aside").textContent = state.models.length ? `${loaded} of ${state.models.length} loaded` : "";
  $("models-note").hidden = state.may.control || !state.models.length;
  const rows = state.models.map(modelRow);
  for (const problem of state.problems) {
    rows.push(h("li", {}, h("div", { class: "what" }, h("p", { class: "name" }, problem.folder), h("p", { class: "trouble" }, problem.sentence), h("p", { class: "meta" }, problem.hint))));
  }
  if (!rows.length) rows.push(h("li", {}, h("p", { class: "empty" }, "No model is here yet. ", h("code", {}, "exo-rkllm pull ORG/REPO"), " fetches one.")));
  redraw($("model-list"), rows);
}

function modelRow(model) {
  const busy = model.running.length > 0;
  const live = model.state === "ready" || model.state === "loading";
  const about = [
    model.quantization,
    model.context && `${model.context.toLocaleString("en")} tokens of context`,
    (live || model.state === "closing") && model.memory ? `${gigabytes(model.memory)} in memory` : model.size && gigabytes(model.size),
    model.pinned ? "pinned" : !busy && model.state === "ready" && model.unload_at && `unloads in ${span(model.unload_at - state.time)}`,
    model.retry_at && `tried again in ${span(model.retry_at - state.time)}`,
  ].filter(Boolean).join(" · ");
  const words = { cold: "not loaded", ready: busy ? "answering" : "loaded", loading: "loading", closing: "unloading", failed: "failed" };
  return h("li", { "data-key": model.name },
    h("div", { class: "what" }, h("p", { class: "name" }, model.title), h("p", { class: "meta" }, about),
      model.error ? h("p", { class: "trouble" }, model.error, " ", model.hint) : null),
    h("span", { class: `state ${busy ? "running" : model.state}` }, words[model.state]),
    state.may.control
      ? h("button", { type: "button", class: "quiet", "data-focus": `act-${model.name}`, disabled: model.state === "closing",
          "aria-label": `${live ? "Unload" : "Load"} ${model.title}`, onclick: (event) => act(event.currentTarget, model.name, live ? "unload" : "load") }, live ? "Unload" : "Load")
      : null);
}

/* Replaces rows only where they changed, and keeps the keyboard's place. */
function redraw(list, rows) {
  const focused = document.activeElement?.getAttribute("data-focus");
  rows.forEach((row, index) => {
    const old = list.children[index];
    if (!old) list.append(row);
    else if (old.outerHTML !== row.outerHTML) old.replaceWith(row);
  });
  while (list.children.length > rows.length) list.lastElementChild.remove();
  if (focused && !document.activeElement?.hasAttribute("data-focus")) list.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

async function act(button, name, verb) {
  button.disabled = true;
  try {
    const response = await fetch(`/v1/models/${encodeURIComponent(name)}/${verb}`, { method: "POST", headers: headers() });
    if (!response.ok) notice(await told(response));
  } catch (error) {
    notice("The daemon did not answer.", error.message);
  } finally {
    button.disabled = false;
  }
}

function drawQueue() {
  const rows = [];
  for (const model of state.models) {
    for (const request of model.running) rows.push(queueRow(request, model, "answering", `${request.tokens} tokens`));
    for (const request of model.waiting) rows.push(queueRow(request, model, `${request.ahead} ahead`, `waits ${span(state.time - request.since)}`));
  }
  $("queue-aside").textContent = state.waiting ? `${state.waiting} waiting` : "";
  if (!rows.length) rows.push(h("li", {}, h("p", { class: "empty" }, "Nobody is waiting.")));
  redraw($("queue-list"), rows);
}
const queueRow = (request, model, what, figure) =>
  h("li", {}, h("div", { class: "what" }, h("p", { class: "name" }, request.client || "someone"), h("p", { class: "meta" }, model.name)),
    h("span", { class: `state ${what === "answering" ? "running" : ""}` }, what), h("span", { class: "figure" }, figure));

function drawCluster() {
  const cluster = state.cluster || {};
  const phase = cluster.phase || "off";
  const nodes = cluster.nodes || [], instances = cluster.instances || [];
  $("cluster-aside").textContent = nodes.length ? `${nodes.length} ${nodes.length === 1 ? "node" : "nodes"}, cluster ${cluster.namespace}` : "";
  const master = nodes.find((node) => node.id === cluster.master || node.master);
  const sentence = cluster.sentence || (phase === "serving"
    ? `This board serves in the cluster; ${master ? `${master.name || master.id.slice(0, 8)} is its master` : "its master is not known"}.`
    : "This board is in no exo cluster.");
  const facts = [];
  if (cluster.lag) facts.push(`${cluster.lag} events behind`);
  if (cluster.tasks) facts.push(`${cluster.tasks} tasks in hand`);
  facts.push(...(cluster.drift || []), ...(cluster.notes || []), ...(cluster.other_clusters || []));
  const withheld = (cluster.offers || []).filter((offer) => !offer.offered);
  facts.push(...withheld.map((offer) => `${offer.model} is not offered: ${offer.reason}`));
  const notice = cluster.announcement;
  put($("cluster-body"), h("p", { class: phase === "serving" ? "" : "empty" }, sentence, cluster.hint ? ` ${cluster.hint}` : ""),
    notice ? h("p", { class: "trouble" }, `${notice.sentence} ${notice.hint}.`) : null,
    facts.map((fact) => h("p", { class: "meta" }, fact)));
  const rows = nodes.map((node) => h("li", {},
    h("div", { class: "what" }, h("p", { class: "name" }, node.name || node.id.slice(0, 12)), h("p", { class: "meta" }, [node.model, node.chip].filter(Boolean).join(" · "))),
    node.me ? h("span", { class: "state ready" }, "this board") : null, node.master ? h("span", { class: "state" }, "master") : null));
  for (const one of instances) {
    rows.push(h("li", {}, h("div", { class: "what" }, h("p", { class: "name" }, one.model), h("p", { class: "meta" }, `on ${one.node}`)),
      one.tasks ? h("span", { class: "figure" }, `${one.tasks} tasks`) : null, h("span", { class: `state ${one.mine ? "ready" : ""}` }, one.status)));
  }
  $("cluster-list").hidden = !rows.length;
  redraw($("cluster-list"), rows);
}

const ASK = $("talk-empty").textContent;

function drawPicker() {
  const names = state.models.map((model) => model.name);
  const picker = $("model");
  if ([...picker.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    const chosen = picker.value || state.models.find((model) => model.state === "ready")?.name;
    put(picker, state.models.map((model) => h("option", { value: model.name }, model.title)));
    if (names.includes(chosen)) picker.value = chosen;
  }
  const nobody = !names.length;
  if (nobody !== picker.parentElement.hidden && $("talk-empty")) $("talk-empty").textContent = nobody ? "There is no model to ask yet." : ASK;
  picker.parentElement.hidden = $("fresh").hidden = nobody;
  $("question").disabled = $("send").disabled = nobody;
}

/* ── the chat ─────────────────────────────────────────────────────────────────────────────────── */

let messages = [];
let answering = null;

function bubble(who) {
  $("talk-empty")?.remove();
  const node = h("div", { class: `said ${who}` });
  $("talk").append(node);
  return node;
}

/* Fenced code gets its own box; everything else stays as it was written. */
function write(node, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  put(node, parts.map((part, index) => (index % 2 ? h("pre", { tabindex: 0 }, part) : h("div", { class: "text" }, part.trim()))).filter((part) => part.textContent));
}

async function ask(text) {
  const model = $("model").value;
  bubble("user").append(h("div", { class: "text" }, text));
  messages.push({ role: "user", content: text });
  const node = bubble("board");
  const thoughts = h("details", { hidden: true }, h("summary", {}, "Thinking …"), h("div", { class: "text" }));
  const body = h("div", {}, h("span", { class: "wait" }, ""));
  const meta = h("p", { class: "meta" });
  node.append(thoughts, body, meta);
  const talk = $("talk");
  talk.scrollTop = talk.scrollHeight;
  let content = "", reasoning = "", usage = null, drawn = false;
  const began = performance.now();
  let first = 0;
  const show = () => {
    drawn = false;
    const low = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
    if (reasoning) {
      thoughts.hidden = false;
      thoughts.lastElementChild.textContent = reasoning;
      thoughts.firstElementChild.textContent = content ? "Thoughts" : "Thinking …";
    }
    if (content) write(body, content);
    if (low) talk.scrollTop = talk.scrollHeight;
  };
  answering = new AbortController();
  busy(true);
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST", signal: answering.signal, headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    });
    if (!response.ok) throw new Error(await told(response));
    for await (const data of serverEvents(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      usage = chunk.usage || usage;
      const delta = chunk.choices[0]?.delta || {};
      if (!first && (delta.content || delta.reasoning_content)) first = performance.now();
      content += delta.content || "";
      reasoning += delta.reasoning_content || "";
      if (!drawn) { drawn = true; requestAnimationFrame(show); }
    }
    show();
    if (!content && !reasoning) put(body, h("span", { class: "empty" }, "(an empty answer)"));
  } catch (error) {
    show();
    if (!content) put(body);
    if (error.name === "AbortError") meta.append("stopped ");
    else node.append(h("p", { class: "trouble", role: "alert" }, error.message));
  }
  if (usage) {
    const timings = usage.timings || {};
    const seconds = timings.decode_ms / 1000;
    meta.append([`${usage.completion_tokens} tokens`, seconds > 0 && `${(usage.completion_tokens / seconds).toFixed(1)} tokens/s`,
      first && `first after ${((first - began) / 1000).toFixed(2)} s`,
      usage.prompt_tokens_details?.cached_tokens ? `${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} prompt tokens reused` : null].filter(Boolean).join(" · "));
  }
  if (content) messages.push({ role: "assistant", content });
  else messages.pop();
  answering = null;
  busy(false);
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
  if (!on) $("question").focus();
}

/* ── hands ────────────────────────────────────────────────────────────────────────────────────── */

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || answering || $("send").disabled) return;
  $("question").value = "";
  ask(text);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && answering && !$("key-box").open) answering.abort();
});
$("stop").addEventListener("click", () => answering?.abort());
$("fresh").addEventListener("click", () => {
  answering?.abort();
  messages = [];
  put($("talk"), h("p", { class: "empty", id: "talk-empty" }, "A new conversation."));
  $("question").focus();
});
$("open-key").addEventListener("click", () => { $("key").value = key; $("key-box").showModal(); });
$("key-drop").addEventListener("click", () => { $("key").value = ""; $("key-form").requestSubmit(); });
$("key-form").addEventListener("submit", () => {
  key = $("key").value.trim();
  if (key) sessionStorage.setItem("key", key);
  else sessionStorage.removeItem("key");
  notice("");
  connection.abort();
});
const redrawTraces = () => state && drawNpu(state.board || {});
window.addEventListener("resize", redrawTraces);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawTraces);
follow();
