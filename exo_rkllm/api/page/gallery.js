/* The gallery: models of the Hub for this board, and the pulls under way. */
import { signal, useRef, useSignal } from "./vendor/libs.js";
import { copy, html } from "./html.js";
import { gigabytes, list, number, span } from "./format.js";
import { postJson, status } from "./daemon.js";

const ENOUGH = 3; // seconds between the two figures that a speed is made of
const failed = signal(null); // what the latest press of a button ended with
const speeds = new Map(); // by target: { time, done, speed }

export const openGallery = () => document.getElementById("gallery").showModal();

async function act(action, model) {
  failed.value = null;
  try {
    const { pulls } = await (await postJson(`/v1/pulls${action}`, { model })).json();
    status.value = { ...status.value, pulls };
  } catch (error) {
    failed.value = { model, text: error.message };
  }
}

/* Bytes a second, over a few seconds; nothing for a pull that stands. */
function speedOf(pull) {
  const { time } = status.value;
  const before = speeds.get(pull.target);
  if (pull.state !== "running" || !before || pull.done < before.done) speeds.set(pull.target, { time, done: pull.done, speed: 0 });
  else if (time - before.time >= ENOUGH) speeds.set(pull.target, { time, done: pull.done, speed: (pull.done - before.done) / (time - before.time) });
  return speeds.get(pull.target).speed;
}

function Pull({ pull }) {
  const { target, state, text, done, total, error, hint, id } = pull;
  const speed = speedOf(pull);
  const name = target.split(":")[0].split("/").at(-1);
  const figures = state === "done" ? `${id} is ready` : list(
    total ? `${gigabytes(done)} of ${gigabytes(total)}` : state === "running" && text,
    (state === "paused" || state === "waiting") && state,
    speed > 0 && `${gigabytes(speed)}/s`,
    speed > 0 && total > done && `${span((total - done) / speed)} left`,
  );
  const button = (label, action) => html`<button type="button" class="quiet" aria-label=${`${label} ${name}`} onclick=${() => act(action, target)}>${label}</button>`;
  return html`<li class="pull" data-target=${target}><div class="what"><p class="name">${name}</p><p class="meta">${figures}</p>
      ${state === "failed" && html`<p class="trouble">${error} ${hint}</p>`}
      ${failed.value?.model === target && html`<p class="trouble" role="alert">${failed.value.text}</p>`}
      ${["waiting", "running", "paused"].includes(state) && html`<progress aria-label=${`Pulling ${name}`} max="1" value=${total ? done / total : state === "running" ? null : 0}></progress>`}</div>
    ${status.value.may.control && html`<span class="acts">${state === "running" || state === "waiting" ? button("Pause", "/pause") : state === "paused" ? button("Resume", "") : state === "failed" ? button("Retry", "") : ""}
      ${button(state === "done" ? "Dismiss" : "Cancel", "/cancel")}</span>`}
  </li>`;
}

export const Pulls = () => (status.value.pulls || []).map((pull) => html`<${Pull} key=${`pull ${pull.target}`} pull=${pull} />`);

function Found({ model }) {
  const pull = status.value.pulls?.find(({ target }) => target === model.target);
  const about = list(model.file, model.size > 0 && gigabytes(model.size), model.quantization, model.sees && "sees pictures", `fetched ${number(model.downloads)} times`);
  const command = `exo-rkllm pull ${model.short || model.target}`;
  const here = model.id || (pull?.state === "done" && pull.id);
  let end;
  if (here) end = html`<span class="state ready">here: ${here}</span>`;
  else if (model.unfit) end = html`<span class="state failed">does not fit</span>`;
  else if (pull) end = html`<span class="state loading">${pull.state === "running" ? "pulling" : pull.state}</span>`;
  else if (status.value.may.control) end = html`<button type="button" aria-label=${`Pull ${model.repo}`} onclick=${() => act("", model.target)}>Pull</button>`;
  else end = html`<button type="button" class="quiet" title=${command} aria-label=${`Copy the command that pulls ${model.repo}`} onclick=${() => copy(command)}>Copy command</button>`;
  return html`<li><div class="what"><p class="name">${model.repo}</p><p class="meta">${about}</p>
      ${(model.unfit || model.note) && html`<p class=${model.unfit ? "trouble" : "meta warm"}>${model.unfit || model.note}</p>`}
      ${failed.value?.model === model.target && html`<p class="trouble" role="alert">${failed.value.text}</p>`}</div>${end}</li>`;
}

export function Gallery() {
  const words = useRef(), found = useSignal(null), said = useSignal("");
  const search = async (event) => {
    event.preventDefault();
    said.value = "Searching …";
    try {
      found.value = (await (await postJson("/v1/gallery", { search: words.current.value })).json()).models;
      const fitting = found.value.filter(({ unfit }) => !unfit).length;
      said.value = found.value.length ? `${fitting} of ${found.value.length} fit this board.` : "Nothing is found. Try fewer words.";
    } catch (error) {
      found.value = null;
      said.value = error.message;
    }
  };
  const { may } = status.value;
  return html`<dialog id="gallery" aria-labelledby="gallery-title">
    <div class="head"><h2 id="gallery-title">Find models</h2><span class="space"></span><button type="button" class="plain" onclick=${() => document.getElementById("gallery").close()}>Close</button></div>
    <form class="seek" onsubmit=${search}><input id="gallery-words" ref=${words} type="search" aria-label="Words that the model's name has" placeholder="qwen3 4b" /><button type="submit">Search</button></form>
    <p class="meta" role="status">${said.value || "Searches the Hugging Face Hub for conversions for this board's SoC."}</p>
    ${!may.control && html`<p class="meta">Pulling on this page needs a key with the right to control.</p>`}
    <ul id="gallery-list" class="rows" tabindex="-1">${(found.value || []).map((model) => html`<${Found} key=${model.target} model=${model} />`)}</ul>
  </dialog>`;
}
