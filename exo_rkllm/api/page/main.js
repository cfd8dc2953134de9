/* The page: conversations, chat and board under one header. */
import { effect, render } from "./vendor/libs.js";
import { html } from "./html.js";
import { clock, list } from "./format.js";
import { follow, link, problem, status } from "./daemon.js";
import { open } from "./conversations.js";
import { Board } from "./board.js";
import { Chat } from "./chat.js";
import { Gallery } from "./gallery.js";
import { KeyBox, openKey, Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { view } from "./view.js";

const VIEWS = { conversations: "Conversations", chat: "Chat", board: "Board" };

function standing() {
  const { state } = link.value;
  if (state === "key") return ["key needed", "bad"];
  if (state === "lost") return ["no connection", "bad"];
  if (state === "stopping") return ["stopping", "waiting"];
  if (!status.value) return ["connecting", "waiting"];
  if (status.value.unavailable_reason || status.value.stuck?.length) return ["cannot run", "bad"];
  return [status.value.running ? "answering" : "ready", "good"];
}

function Header() {
  const board = status.value?.board || {};
  const driver = board.driver && `${board.driver.name} driver ${board.driver.version || "of unknown version"}`;
  const facts = list(board.soc, board.tops && `${board.tops} TOPS`, driver, board.kernel && `Linux ${board.kernel}`);
  const [text, kind] = standing();
  return html`<header>
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><rect x="5" y="15" width="5" height="12" rx="1.5" /><rect x="13.5" y="5" width="5" height="22" rx="1.5" /><rect x="22" y="10" width="5" height="17" rx="1.5" /></svg>
    <div class="title"><h1 id="board">${board.title || "exo-rkllm"}</h1><p id="facts">${facts}</p></div>
    <div class="views" role="group" aria-label="Shown">${Object.entries(VIEWS).map(([name, title]) => html`<button type="button" id=${`view-${name}`} class=${`plain ${name}`}
      aria-pressed=${view.value === name} onclick=${() => { view.value = view.value === name ? "chat" : name; }}>${title}</button>`)}</div>
    <p id="pill" class=${`pill ${kind}`} role="status">${text}</p>
    <button id="open-key" type="button" class="quiet" aria-haspopup="dialog" onclick=${openKey}>Key</button>
  </header>`;
}

function Notice() {
  const { state, since, detail } = link.value;
  let text = "", hint = "";
  if (state === "lost") [text, hint] = [`No connection since ${clock(since)}.`, `${detail} This page connects again by itself; what it shows is old.`];
  else if (state === "stopping") [text, hint] = ["The daemon is stopping.", "Running answers may finish. This page connects again by itself."];
  else if (problem.value && state === "live") text = problem.value.text;
  else if (status.value?.unavailable_reason) [text, hint] = [status.value.unavailable_reason, status.value.hint];
  else if (status.value?.stuck?.length) [text, hint] = [status.value.stuck[0].sentence, status.value.stuck[0].hint];
  return html`<div id="notice" class=${`notice ${state === "stopping" ? "waiting" : ""}`} role="alert" hidden=${!text}><strong>${text}</strong> <span>${hint}</span></div>`;
}

function App() {
  const old = link.value.state === "lost" || link.value.state === "stopping";
  return html`<div class=${`page ${old ? "old" : ""}`} data-view=${view.value}>
    <a class="skip" href="#question">Skip to the chat</a>
    <${Header} /><${Notice} />
    <main><${Sidebar} /><${Chat} /><${Board} /></main>
    <${Settings} /><${KeyBox} />${status.value && html`<${Gallery} />`}
  </div>`;
}

effect(() => {
  const title = status.value?.board?.title;
  document.title = title ? `${title} · exo-rkllm` : "exo-rkllm";
});
document.getElementById("page").replaceChildren();
render(html`<${App} />`, document.getElementById("page"));
open();
follow();
