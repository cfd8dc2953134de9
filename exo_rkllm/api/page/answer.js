/* Asks the model, and writes what it says into the message that the answer belongs to, whatever is shown meanwhile. */
import { signal } from "./vendor/libs.js";
import { DaemonError, postJson, serverEvents } from "./daemon.js";
import { conversations, current, save, show, start, touch } from "./conversations.js";
import { effort } from "./markdown.js";

export const spoken = signal([]); // the latest sentences, for screen readers
const SAVED_EVERY = 2000; // milliseconds, so that little is lost when the page is closed
const SHORTENED_TO = 0.6; // of the context
const SUMMARY_TOKENS = 400;
const CHARACTERS_PER_TOKEN = 3; // an estimate on the safe side
const running = new Map(); // message to its AbortController

export const stop = (message) => running.get(message)?.abort();
export const runningIn = (conversation) => conversation.messages.find((message) => message.state);

/* ── what is sent ─────────────────────────────────────────────────────────────────────────────── */

function sent(conversation, end) {
  const { settings, from, messages } = conversation;
  const summary = messages.find(({ role, content }) => role === "summary" && content);
  const system = [settings.system?.trim(), summary && `Summary of the conversation before:\n${summary.content}`].filter(Boolean).join("\n\n");
  const turns = messages.slice(from, end).filter(({ role, content, images }) => role !== "summary" && (content || images?.length));
  return [...(system ? [{ role: "system", content: system }] : []), ...turns.map(turn)];
}

function turn({ role, content, images }) {
  if (!images?.length) return { role, content };
  return { role, content: [...(content ? [{ type: "text", text: content }] : []), ...images.map((url) => ({ type: "image_url", image_url: { url } }))] };
}

/* ── asking ───────────────────────────────────────────────────────────────────────────────────── */

export function ask(conversation, content, images = []) {
  conversation.messages.push({ role: "user", content, ...(images.length ? { images } : {}) });
  show(conversation);
  return reply(conversation);
}

function reply(conversation) {
  const message = { role: "assistant", content: "" };
  conversation.messages.push(message);
  return run(conversation, message, sent(conversation, conversation.messages.length - 1));
}

/* The same question, asked again: what was said after it is dropped. */
export function again(conversation, message) {
  if (message.role === "summary") return summarize(conversation, message);
  conversation.messages.length = conversation.messages.indexOf(message);
  return reply(conversation);
}

export function edit(conversation, message, content) {
  conversation.messages.length = conversation.messages.indexOf(message);
  conversation.from = Math.min(conversation.from, conversation.messages.length);
  return ask(conversation, content, message.images);
}

/* After a limit, a stop or an error: the model goes on where its answer ended. */
export function proceed(conversation, message) {
  const index = conversation.messages.indexOf(message);
  const more = [...sent(conversation, index + 1), { role: "user", content: "Continue exactly where your answer ends. Repeat nothing." }];
  return run(conversation, message, more);
}

/* ── when the context is full ─────────────────────────────────────────────────────────────────── */

/* Leaves out the oldest questions with their answers until the rest fits again. */
export function shorten(conversation, context) {
  const { messages } = conversation;
  const room = context * SHORTENED_TO * CHARACTERS_PER_TOKEN;
  let size = 0, from = messages.length;
  for (let index = messages.length - 1; index >= 0; index -= 1) {
    size += messages[index].content.length;
    if (size > room && from < messages.length) break;
    if (messages[index].role === "user") from = index;
  }
  const second = messages.findIndex(({ role }, index) => index > conversation.from && role === "user");
  conversation.from = Math.min(Math.max(from, second), lastQuestion(messages));
  touch(conversation);
  save(conversation);
}

const lastQuestion = (messages) => messages.findLastIndex(({ role }) => role === "user");

/* A new conversation that begins with a summary of this one. */
export function startWithSummary(conversation, context) {
  const room = Math.max(1000, context * SHORTENED_TO * CHARACTERS_PER_TOKEN);
  const source = conversation.messages.filter(({ content }) => content)
    .map(({ role, content }) => `${{ user: "User", assistant: "Assistant", summary: "Before" }[role]}: ${content}`).join("\n\n").slice(-room);
  start();
  const message = { role: "summary", content: "", source };
  current.peek().messages.push(message);
  return summarize(current.peek(), message);
}

function summarize(conversation, message) {
  const question = `Summarize this conversation in at most 200 words. Keep names, numbers, decisions and open questions.\n\n${message.source}`;
  Object.assign(message, { content: "", reasoning: "" });
  return run(conversation, message, [{ role: "user", content: question }], { max_tokens: SUMMARY_TOKENS, chat_template_kwargs: { enable_thinking: false } });
}

/* ── one answer ───────────────────────────────────────────────────────────────────────────────── */

async function run(conversation, message, messages, more = {}) {
  const { model, temperature, length, think } = conversation.settings;
  const control = new AbortController();
  const before = message.content;
  for (const name of ["error", "finish", "stats", "stopped"]) delete message[name];
  Object.assign(message, { model, state: "waiting", request: `page-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`, asked: Date.now() });
  running.set(message, control);
  touch(conversation);
  save(conversation);
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...more };
  if (temperature != null) body.temperature = temperature;
  if (length && !body.max_tokens) body.max_tokens = length;
  if (think != null && !body.chat_template_kwargs) body.chat_template_kwargs = { enable_thinking: think };
  const draw = drawer(message);
  const speaker = new Speaker();
  const moments = { asked: performance.now(), first: 0, answer: 0 };
  let saved = performance.now(), usage = null, ended = false;
  try {
    const response = await postJson("/v1/chat/completions", body, { signal: control.signal, headers: { "X-Request-Id": message.request } });
    for await (const data of serverEvents(response)) {
      if (data === "[DONE]") { ended = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new DaemonError(chunk.error.message, chunk.error.code);
      usage = chunk.usage || usage;
      const { delta = {}, finish_reason: finish } = chunk.choices[0] || {};
      if (finish) message.finish = finish;
      if (!delta.content && !delta.reasoning_content) continue;
      const now = performance.now();
      moments.first ||= now;
      if (delta.reasoning_content) {
        message.reasoning = (message.reasoning || "") + delta.reasoning_content;
        message.state = "thinking";
      }
      if (delta.content) {
        if (!moments.answer) {
          moments.answer = now;
          if (message.reasoning) message.thought = (now - moments.first) / 1000;
        }
        message.content += delta.content;
        message.state = "answering";
        speaker.hear(delta.content);
      }
      draw();
      if (now - saved > SAVED_EVERY) {
        saved = now;
        save(conversation);
      }
    }
    if (!ended) throw new DaemonError("The daemon ended the answer before it was complete.", "incomplete");
  } catch (error) {
    if (control.signal.aborted) message.stopped = true;
    else message.error = { text: error instanceof DaemonError ? error.message : "The connection to the daemon broke off.", code: error.code || "" };
  }
  running.delete(message);
  if (usage) message.stats = statistics(usage, moments);
  if (message.content === before && !message.error && !message.stopped && !message.reasoning) message.empty = true;
  delete message.state;
  speaker.end(message);
  touch(message);
  touch(conversation);
  if (conversations.peek().includes(conversation)) await save(conversation); // it may have been deleted meanwhile
}

function statistics(usage, { asked, first }) {
  const seconds = (performance.now() - first) / 1000;
  return {
    tokens: usage.completion_tokens, prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens || 0,
    wait: first ? (first - asked) / 1000 : null, speed: first && usage.completion_tokens > 1 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : null,
  };
}

/* Draws at most once a frame, and leaves the browser at least three quarters of its time. */
function drawer(message) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    setTimeout(() => requestAnimationFrame(() => {
      due = false;
      touch(message);
    }), Math.min(200, 3 * effort.milliseconds));
  };
}

/* Tells screen readers whole sentences, and of code only that there is some. */
class Speaker {
  constructor() {
    this.rest = "";
    this.inCode = false;
  }

  hear(text) {
    this.rest += text;
    const end = Math.max(...[". ", "! ", "? ", ": ", "\n"].map((mark) => this.rest.lastIndexOf(mark)));
    if (end < 0) return;
    this.say(this.rest.slice(0, end + 1));
    this.rest = this.rest.slice(end + 1);
  }

  say(text) {
    const lines = [];
    for (const line of text.split("\n")) {
      if (/^\s*```/.test(line)) {
        this.inCode = !this.inCode;
        if (this.inCode) lines.push("Code.");
      } else if (!this.inCode) lines.push(line.replace(/[#*_`>|]+/g, " ").trim());
    }
    const said = lines.filter(Boolean).join(" ");
    if (said) spoken.value = [...spoken.peek().slice(-3), { id: (spoken.peek().at(-1)?.id || 0) + 1, text: said }];
  }

  end({ error, stopped }) {
    this.say(this.rest);
    this.say(error ? error.text : stopped ? "Stopped." : "The answer is complete.");
  }
}
