/* The conversation that is shown, and what may be done with it. */
import { useEffect, useLayoutEffect, useRef, useSignal, useState } from "./vendor/libs.js";
import { copy, html } from "./html.js";
import { number, plural, span } from "./format.js";
import { link, now, status } from "./daemon.js";
import { openGallery } from "./gallery.js";
import { current, save, start, touch, watch } from "./conversations.js";
import { again, ask, edit, proceed, runningIn, shorten, spoken, startWithSummary, stop } from "./answer.js";
import { Writer } from "./markdown.js";
import { fit, modelNamed, sees } from "./models.js";
import { Picture, pictureOf } from "./pictures.js";
import { openSettings } from "./settings.js";

const CROWDED = 0.85; // of the context
const NEAR = 80; // pixels from the end, within which the talk follows the answer

/* ── an answer ────────────────────────────────────────────────────────────────────────────────── */

function Markdown({ text }) {
  const root = useRef(), writer = useRef();
  useLayoutEffect(() => {
    writer.current ??= new Writer(root.current);
    writer.current.write(text);
  }, [text]);
  return html`<div class="markdown" ref=${root} dir="auto"></div>`;
}

/* What the daemon is doing with a question that has no answer yet. */
function progress(message) {
  const model = status.value?.models.find(({ name }) => name === message.model);
  if (link.value.state === "lost") return "Waiting for the daemon";
  const waiting = model?.waiting.find(({ reference }) => reference === message.request);
  const seconds = Math.max(0, now.value - (model?.since || 0));
  if (model?.state === "loading") return `Loading ${model.title}, ${Math.floor(seconds)}${expected(model)} s`;
  if (waiting?.ahead) return `${waiting.ahead} ahead of you`;
  if (waiting) return "Waiting for the NPU";
  return message.reasoning ? "Thinking" : "Reading your question";
}

/* How long the latest load of this model took, as this browser has seen it. */
function expected(model) {
  if (model.load_seconds) localStorage.setItem(`load ${model.name}`, model.load_seconds);
  const seconds = model.load_seconds || Number(localStorage.getItem(`load ${model.name}`));
  return seconds ? ` of about ${Math.max(1, Math.round(seconds))}` : "";
}

const Waiting = ({ message }) => html`<p class="wait"><span class="spinner"></span>${progress(message)} …</p>`;

function Thoughts({ message }) {
  const thinking = message.state === "thinking";
  const seconds = message.thought ?? (thinking ? (Date.now() - message.asked) / 1000 : 0);
  if (thinking) now.value; // counts on
  return html`<details class="thoughts"><summary>${thinking ? "Thinking" : "Thoughts"}${seconds >= 1 ? `, ${span(seconds)}` : ""}${thinking ? " …" : ""}</summary>
    <${Markdown} text=${message.reasoning} /></details>`;
}

function Tool({ label, onclick, children }) {
  return html`<button type="button" class="plain" title=${label} onclick=${onclick}>${children || label}</button>`;
}

function CopyTool({ text }) {
  const done = useSignal(false);
  const act = async () => {
    await copy(text);
    done.value = true;
    setTimeout(() => { done.value = false; }, 1500);
  };
  return html`<${Tool} label=${done.value ? "Copied" : "Copy"} onclick=${act} />`;
}

const stats = ({ tokens, speed, wait, cached, prompt }) => [
  plural(tokens, "token"), speed && `${speed.toFixed(1)} tokens/s`, wait != null && `first after ${wait.toFixed(wait < 10 ? 2 : 0)} s`,
  cached > 0 && `${number(cached)} of ${number(prompt)} prompt tokens reused`,
].filter(Boolean).join(" · ");

function Answer({ conversation, message, last }) {
  watch(message);
  const { content, reasoning, state, error, stopped, finish, empty } = message;
  const full = error?.code === "context_overflow";
  const cut = content && !state && (stopped || finish === "length" || (error && !full));
  return html`<article class=${`said board ${message.role}`} aria-label=${message.role === "summary" ? "Summary" : "Answer"} aria-busy=${Boolean(state)}>
    ${message.role === "summary" && html`<p class="meta">Summary of the conversation before</p>`}
    ${reasoning && html`<${Thoughts} message=${message} />`}
    ${content && html`<${Markdown} text=${content} />`}
    ${state === "waiting" && html`<${Waiting} message=${message} />`}
    ${empty && html`<p class="empty">The model answered nothing.</p>`}
    ${error && html`<div class="trouble" role="alert"><p>${error.text}</p></div>`}
    ${!state && html`<footer class=${last ? "tools" : "tools earlier"}>
      ${error && html`<button type="button" onclick=${() => again(conversation, message)}>Retry</button>`}
      ${full && html`<${Room} conversation=${conversation} then=${() => again(conversation, message)} />`}
      ${cut && last && html`<button type="button" class="quiet" onclick=${() => proceed(conversation, message)}>Continue</button>`}
      ${content && html`<${CopyTool} text=${content} />`}
      ${!error && last && html`<${Tool} label="Ask again" onclick=${() => again(conversation, message)} />`}
      <span class="meta">${[stopped && "stopped", finish === "length" && "reached its limit", message.stats && stats(message.stats)].filter(Boolean).join(" · ")}</span>
    </footer>`}
  </article>`;
}

/* ── a question ───────────────────────────────────────────────────────────────────────────────── */

function Question({ conversation, message }) {
  const [text, setText] = useState(null);
  const box = useRef();
  const editing = text != null;
  useLayoutEffect(() => box.current?.focus(), [editing]);
  const busy = runningIn(conversation);
  if (editing) {
    const finish = (event) => {
      event.preventDefault();
      if (!text.trim() || busy) return;
      setText(null);
      edit(conversation, message, text.trim());
    };
    return html`<form class="said user editing" onsubmit=${finish}>
      <textarea aria-label="Question" dir="auto" value=${text} ref=${box}
        oninput=${(event) => setText(event.target.value)} onkeydown=${(event) => submitOnEnter(event, () => setText(null))}></textarea>
      <p class="buttons"><button type="button" class="quiet" onclick=${() => setText(null)}>Cancel</button><button type="submit" disabled=${busy}>Ask</button></p>
    </form>`;
  }
  return html`<article class="said user" aria-label="Question" dir="auto">
    ${message.images?.map((image) => html`<${Picture} key=${image.length} data=${image} />`)}
    <div class="text">${message.content}</div>
    <footer class="tools earlier"><${CopyTool} text=${message.content} /><${Tool} label="Edit" onclick=${() => setText(message.content)} /></footer>
  </article>`;
}

function submitOnEnter(event, escape) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    event.target.form.requestSubmit();
  } else if (event.key === "Escape" && escape) {
    event.stopPropagation();
    escape();
  }
}

/* ── the talk ─────────────────────────────────────────────────────────────────────────────────── */

const STARTERS = ["Explain how an NPU multiplies matrices.", "Write a shell script that reports the temperature of this board.", "What can I do with a small language model?"];

function Talk({ conversation }) {
  watch(conversation);
  const box = useRef(), follows = useRef(true);
  const onscroll = () => { follows.current = box.current.scrollHeight - box.current.scrollTop - box.current.clientHeight < NEAR; };
  useLayoutEffect(() => {
    follows.current = true;
    box.current.scrollTop = box.current.scrollHeight;
    const grown = new ResizeObserver(() => { if (follows.current) box.current.scrollTop = box.current.scrollHeight; });
    grown.observe(box.current.firstElementChild);
    grown.observe(box.current);
    return () => grown.disconnect();
  }, [conversation]);
  useLayoutEffect(() => { follows.current = true; box.current.scrollTop = box.current.scrollHeight; }, [conversation.messages.length]);
  const { messages, from } = conversation;
  return html`<div id="talk" class="talk" ref=${box} onscroll=${onscroll} tabindex="0" role="region" aria-label="Conversation"><div class="turns">
    ${messages.length === 0 && html`<${Welcome} conversation=${conversation} />`}
    ${messages.map((message, index) => {
      const key = message.key ??= crypto.getRandomValues(new Uint32Array(2)).join("-");
      return [
        index > 0 && index === from && html`<p key="from" class="divider">Everything above is no longer sent to the model.</p>`,
        message.role === "user" ? html`<${Question} key=${key} conversation=${conversation} message=${message} />`
          : html`<${Answer} key=${key} conversation=${conversation} message=${message} last=${index === messages.length - 1} />`,
      ];
    })}
  </div></div>`;
}

function Welcome({ conversation }) {
  const none = status.value && !status.value.models.length;
  return html`<div class="welcome"><h2>${none ? "There is no model to ask yet." : "Ask the board something."}</h2>
    ${none ? html`<p>Fetch one in a terminal on the board: <code>exo-rkllm search qwen3</code>, then <code>exo-rkllm pull NAME</code></p>
        ${status.value.may.load && html`<button type="button" onclick=${openGallery}>Find a model for this board</button>`}`
      : html`<p>Answers are computed on this board. Conversations stay in this browser.</p>
        <div class="starters">${status.value && STARTERS.map((text) => html`<button type="button" class="quiet" onclick=${() => send(conversation, text)}>${text}</button>`)}</div>`}
  </div>`;
}

function send(conversation, text, images) {
  const model = modelNamed(conversation.settings.model);
  if (!model || runningIn(conversation)) return false;
  conversation.settings.model = model.name;
  ask(conversation, text, images);
  return true;
}

/* ── the context ──────────────────────────────────────────────────────────────────────────────── */

const used = (conversation) => {
  const counted = conversation.messages.slice(conversation.from).findLast(({ stats }) => stats)?.stats;
  return counted ? counted.prompt + counted.tokens : 0;
};

/* Two ways out of a full context. */
function Room({ conversation, then }) {
  const context = modelNamed(conversation.settings.model)?.context || 4096;
  const cut = () => { shorten(conversation, context); then?.(); };
  return html`<button type="button" class="quiet" onclick=${cut}>Leave out the oldest</button>
    <button type="button" class="quiet" onclick=${() => startWithSummary(conversation, context)}>Start anew with a summary</button>`;
}

function Meter({ conversation, model }) {
  const tokens = used(conversation);
  if (!model?.context || !tokens) return null;
  const share = Math.min(1, tokens / model.context);
  const { state, error } = conversation.messages.at(-1); // an error brings its own ways out
  const crowded = share >= CROWDED && !state && !error;
  return html`<div class="context">
    ${crowded && html`<p class="crowded">The context is almost full. <${Room} conversation=${conversation} /></p>`}
    <span class="meter" title=${`${number(tokens)} of ${number(model.context)} tokens of context are used`}>
      <meter min="0" max="1" high=${CROWDED} value=${share} aria-label="Context used">${Math.round(share * 100)} %</meter>
      <small>${number(tokens)} / ${number(model.context)}</small></span>
  </div>`;
}

/* ── where questions are written ──────────────────────────────────────────────────────────────── */

const drafts = new WeakMap(); // conversation to what was written and not sent

function Composer({ conversation }) {
  watch(conversation);
  const [text, setText] = useState(""), [images, setImages] = useState([]), [trouble, setTrouble] = useState("");
  const box = useRef(), file = useRef();
  const model = modelNamed(conversation.settings.model);
  const running = runningIn(conversation);
  useEffect(() => {
    setText(drafts.get(conversation)?.text || "");
    setImages(drafts.get(conversation)?.images || []);
    if (matchMedia("(pointer: fine)").matches) box.current?.focus({ preventScroll: true });
  }, [conversation]);
  const note = (fresh) => drafts.set(conversation, { text, images, ...fresh });
  const submit = (event) => {
    event.preventDefault();
    if ((!text.trim() && !images.length) || !send(conversation, text.trim(), images)) return;
    setText("");
    setImages([]);
    drafts.delete(conversation);
  };
  const add = async (files) => {
    setTrouble("");
    const pictures = [...files].filter(({ type }) => type.startsWith("image/"));
    if (!pictures.length) { setTrouble("Only pictures can be added to a question."); return; }
    if (!sees(model)) { setTrouble(`${model?.title || "This model"} does not see pictures.`); return; }
    try {
      const fresh = [...images, ...await Promise.all(pictures.map(pictureOf))];
      setImages(fresh);
      note({ images: fresh });
    } catch { setTrouble("This file is no picture that the browser can read."); }
  };
  return html`<form id="ask" class="composer" onsubmit=${submit} ondragover=${(event) => event.preventDefault()}
      ondrop=${(event) => { event.preventDefault(); add(event.dataTransfer.files); }}>
    <${Meter} conversation=${conversation} model=${model} />
    ${trouble && html`<p class="trouble" role="alert">${trouble}</p>`}
    ${images.length > 0 && html`<div class="attached">${images.map((image, index) => html`<span key=${index}><${Picture} data=${image} />
      <button type="button" class="plain" aria-label="Remove the picture" onclick=${() => setImages(images.filter((_, other) => other !== index))}>✕</button></span>`)}</div>`}
    <textarea id="question" ref=${box} rows="1" dir="auto" aria-label="Question" placeholder="Ask something …" enterkeyhint="send" value=${text} disabled=${!model}
      oninput=${(event) => { setText(event.target.value); note({ text: event.target.value }); }} onkeydown=${(event) => submitOnEnter(event)}
      onpaste=${(event) => { if (event.clipboardData.files.length) { event.preventDefault(); add(event.clipboardData.files); } }}></textarea>
    <div class="below">
      <${Picker} conversation=${conversation} model=${model} />
      ${sees(model) && html`<button type="button" class="plain" onclick=${() => file.current.click()}>Picture</button>
        <input type="file" accept="image/*" multiple hidden ref=${file} onchange=${(event) => { add(event.target.files); event.target.value = ""; }} />`}
      <button id="open-settings" type="button" class="plain" onclick=${openSettings}>Settings</button>
      <span class="space"></span>
      ${running ? html`<button id="stop" type="button" class="stop" onclick=${() => stop(running)}>Stop</button>`
        : html`<button id="send" type="submit" disabled=${!model}>Send</button>`}
    </div>
  </form>`;
}

function Picker({ conversation, model }) {
  const models = status.value?.models || [];
  if (!models.length) return null;
  const choose = (event) => {
    conversation.settings.model = event.target.value;
    touch(conversation);
    if (conversation.messages.length) save(conversation);
  };
  const label = (one) => [one.title, fit(one, status.value) ? "does not fit" : one.state === "ready" ? "loaded" : "", one.images ? "sees" : ""].filter(Boolean).join(" · ");
  return html`<select id="model" aria-label="Model" value=${model?.name} onchange=${choose} title=${model && fit(model, status.value)}>
    ${models.map((one) => html`<option key=${one.name} value=${one.name} selected=${one.name === model?.name}>${label(one)}</option>`)}</select>`;
}

/* ── all of it ────────────────────────────────────────────────────────────────────────────────── */

export function Chat() {
  const conversation = current.value;
  useEffect(() => {
    const onkey = (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
        const running = runningIn(current.peek());
        if (running) stop(running);
      }
    };
    document.addEventListener("keydown", onkey);
    return () => document.removeEventListener("keydown", onkey);
  }, []);
  return html`<section id="chat" aria-label="Chat">
    <${Talk} conversation=${conversation} />
    <${Composer} conversation=${conversation} />
    <div class="unseen" role="log" aria-live="polite" aria-label="Answer, by sentences">${spoken.value.map(({ id, text }) => html`<p key=${id}>${text}</p>`)}</div>
  </section>`;
}

export function startNew() {
  start();
  document.getElementById("question")?.focus();
}
