/* Conversations, kept by the browser. A conversation is a plain object, and so are its messages; whoever changes one
   calls `touch` (draw it) and `save` (keep it). */
import { computed, signal } from "./vendor/libs.js";

export const conversations = signal([]); // newest first; without those that nothing was said in
export const current = signal(fresh());
export const kept = signal(true); // whether this browser keeps them
const versions = new WeakMap();
const news = new BroadcastChannel("conversations");

function fresh(settings = {}) {
  return { id: crypto.getRandomValues(new Uint32Array(4)).join("-"), title: "", created: Date.now(), updated: Date.now(), settings, from: 0, messages: [] };
}

/* Components that read it are drawn again after `touch` of the same object. */
export function watch(object) {
  if (!versions.has(object)) versions.set(object, signal(0));
  return versions.get(object).value;
}

export function touch(object) {
  const version = versions.get(object);
  if (version) version.value = version.peek() + 1;
}

/* ── the database ─────────────────────────────────────────────────────────────────────────────── */

const database = new Promise((resolve, reject) => {
  const request = indexedDB.open("exo-rkllm", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
database.catch(() => { kept.value = false; });

async function transact(mode, act) {
  const transaction = (await database).transaction("conversations", mode);
  const request = act(transaction.objectStore("conversations"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/* Reads the list; another tab has saved or removed a conversation. What is answered here stays as it is. */
async function reload({ saved = "", removed = "" } = {}) {
  try {
    const stored = new Map((await transact("readonly", (store) => store.getAll())).map((one) => [one.id, one]));
    if (!saved) for (const one of stored.values()) one.messages.filter((message) => message.state).forEach(interrupted);
    for (const one of conversations.peek()) if (one.id !== removed && (one.id !== saved || isAnswered(one))) stored.set(one.id, one);
    const list = [...stored.values()];
    conversations.value = list.sort((a, b) => b.updated - a.updated);
    const shown = list.find((one) => one.id === current.peek().id);
    if (shown && shown !== current.peek()) current.value = shown;
  } catch {
    kept.value = false;
  }
}

/* Whether an answer is being written; `state` is only set meanwhile. */
export const isAnswered = (conversation) => conversation.messages.some((message) => message.state);

/* The page was closed while this was being answered. */
function interrupted(message) {
  delete message.state;
  message.error = { text: "The page was closed before the answer was complete." };
}

export async function open() {
  news.onmessage = ({ data }) => reload(data);
  await reload();
  const last = conversations.value.find((one) => one.id === sessionStorage.getItem("conversation"));
  if (last && !current.peek().messages.length) current.value = last;
}

export async function save(conversation) {
  if (!conversation.messages.length) return;
  conversation.updated = Date.now();
  conversations.value = [conversation, ...conversations.peek().filter((one) => one !== conversation && one.id !== conversation.id)];
  try {
    await transact("readwrite", (store) => store.put(conversation));
    news.postMessage({ saved: conversation.id });
  } catch {
    kept.value = false;
  }
}

export async function remove(conversation) {
  conversations.value = conversations.peek().filter((one) => one !== conversation);
  if (current.peek() === conversation) start();
  try {
    await transact("readwrite", (store) => store.delete(conversation.id));
    news.postMessage({ removed: conversation.id });
  } catch {
    kept.value = false;
  }
}

/* ── which one is shown ───────────────────────────────────────────────────────────────────────── */

export function show(conversation) {
  current.value = conversation;
  sessionStorage.setItem("conversation", conversation.id);
}

/* A new one keeps the settings of the one before, such as its model. */
export function start(settings = current.peek().settings) {
  show(fresh({ ...settings }));
}

export const search = signal("");
export const found = computed(() => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return conversations.value;
  return conversations.value.filter((one) => {
    const text = [titleOf(one), ...one.messages.map((message) => message.content)].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  });
});

export const titleOf = (conversation) => conversation.title || conversation.messages.find((message) => message.role === "user")?.content.trim().split("\n")[0].slice(0, 80) || "New conversation";

/* ── files ────────────────────────────────────────────────────────────────────────────────────── */

export const fileName = (conversation) => titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation";

export function asMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  if (conversation.settings.system) parts.push(`> ${conversation.settings.system.replace(/\n/g, "\n> ")}`);
  for (const { role, content, model } of conversation.messages) parts.push(`## ${role === "user" ? "You" : model || "Answer"}`, content);
  return parts.join("\n\n") + "\n";
}

export const asJson = (list) => JSON.stringify({ format: "exo-rkllm conversations", version: 1, conversations: list }, null, 1);

const TEXTS = ["content", "reasoning", "model", "finish"];

/* Takes what `asJson` wrote; returns how many were taken. Raises an Error with a sentence. */
export async function take(text) {
  let list;
  try {
    list = JSON.parse(text).conversations;
  } catch {
    throw new Error("This file is not JSON.");
  }
  if (!Array.isArray(list)) throw new Error("This file holds no conversations that this page has exported.");
  let count = 0;
  for (const one of list) {
    const messages = (Array.isArray(one?.messages) ? one.messages : [])
      .filter((message) => ["user", "assistant"].includes(message?.role) && typeof message.content === "string")
      .map((message) => ({
        role: message.role,
        ...Object.fromEntries(TEXTS.filter((name) => typeof message[name] === "string").map((name) => [name, message[name]])),
        ...(Array.isArray(message.images) ? { images: message.images.filter((image) => /^data:image\//.test(image)) } : {}),
      }));
    if (!messages.length) continue;
    const { system, temperature, length, think, model } = one.settings || {};
    const conversation = fresh(JSON.parse(JSON.stringify({ system, temperature, length, think, model })));
    conversation.title = String(one.title || "");
    conversation.messages = messages;
    await save(conversation);
    count += 1;
  }
  if (!count) throw new Error("This file holds no conversations.");
  return count;
}
