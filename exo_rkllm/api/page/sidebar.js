/* The list of conversations. */
import { useRef, useSignal } from "./vendor/libs.js";
import { download, focus, html, select } from "./html.js";
import { day } from "./format.js";
import { asJson, asMarkdown, conversations, current, fileName, found, kept, isAnswered, remove, save, search, show, take, titleOf, touch, watch } from "./conversations.js";
import { startNew } from "./chat.js";
import { view } from "./view.js";

function Item({ conversation }) {
  watch(conversation);
  const naming = useSignal(false), asking = useSignal(false), menu = useRef();
  const shown = current.value === conversation;
  const title = titleOf(conversation);
  const rename = (event) => {
    event.preventDefault();
    naming.value = false;
    conversation.title = event.target.elements.title.value.trim();
    touch(conversation);
    save(conversation);
  };
  const close = () => menu.current?.removeAttribute("open");
  const pick = (act) => () => { close(); act(); };
  if (naming.value) {
    return html`<li><form class="rename" onsubmit=${rename} onfocusout=${(event) => event.currentTarget.requestSubmit()}>
      <input name="title" aria-label="Name of the conversation" defaultValue=${title} ref=${select} onkeydown=${(event) => { if (event.key === "Escape") naming.value = false; }} /></form></li>`;
  }
  if (asking.value) {
    return html`<li class="asking" role="group" aria-label=${`Delete ${title}?`}><span>Delete it?</span>
      <button type="button" class="stop" ref=${focus} onclick=${() => remove(conversation)}>Delete</button>
      <button type="button" class="quiet" onclick=${() => { asking.value = false; }}>Keep</button></li>`;
  }
  return html`<li class=${shown ? "shown" : ""}>
    <button type="button" class="plain title" aria-current=${shown ? "true" : null} dir="auto" onclick=${() => { show(conversation); view.value = "chat"; }}>
      ${isAnswered(conversation) && html`<span class="spinner" role="img" aria-label="Being answered"></span>`}${title}</button>
    <details class="menu" ref=${menu} onfocusout=${(event) => { if (!event.currentTarget.contains(event.relatedTarget)) setTimeout(close, 100); }}
        onkeydown=${(event) => { if (event.key === "Escape") { close(); event.currentTarget.firstElementChild.focus(); } }}>
      <summary aria-label=${`More about ${title}`}>⋯</summary>
      <div><button type="button" class="plain" onclick=${pick(() => { naming.value = true; })}>Rename</button>
        <button type="button" class="plain" onclick=${pick(() => download(`${fileName(conversation)}.md`, asMarkdown(conversation), "text/markdown"))}>Export as Markdown</button>
        <button type="button" class="plain" onclick=${pick(() => download(`${fileName(conversation)}.json`, asJson([conversation]), "application/json"))}>Export as JSON</button>
        <button type="button" class="plain bad" onclick=${pick(() => { asking.value = true; })}>Delete</button></div>
    </details>
  </li>`;
}

function groups(list) {
  const result = new Map();
  for (const one of list) result.set(day(one.updated), [...(result.get(day(one.updated)) || []), one]);
  return [...result];
}

export function Sidebar() {
  const file = useRef(), said = useSignal("");
  const load = async (event) => {
    try {
      const count = await take(await event.target.files[0].text());
      said.value = count === 1 ? "One conversation was imported." : `${count} conversations were imported.`;
    } catch (error) {
      said.value = error.message;
    }
    event.target.value = "";
  };
  const list = found.value;
  return html`<nav id="conversations" aria-label="Conversations">
    <button id="fresh" type="button" class="quiet new" onclick=${() => { view.value = "chat"; startNew(); }}>New conversation</button>
    ${conversations.value.length > 0 && html`<input id="search" type="search" aria-label="Search conversations" placeholder="Search" value=${search.value} oninput=${(event) => { search.value = event.target.value; }} />`}
    <div class="list" tabindex="-1">
      ${!list.length && html`<p class="empty">${search.value ? "Nothing is found." : "Conversations appear here."}</p>`}
      ${groups(list).map(([name, some]) => html`<section key=${name}><h2>${name}</h2><ul>${some.map((one) => html`<${Item} key=${one.id} conversation=${one} />`)}</ul></section>`)}
    </div>
    <p class="files">
      ${!kept.value && html`<span class="trouble">This browser does not let the page keep conversations.</span>`}
      <span role="status">${said.value}</span>
      <button type="button" class="plain" onclick=${() => file.current.click()}>Import</button>
      ${conversations.value.length > 0 && html`<button type="button" class="plain" onclick=${() => download("conversations.json", asJson(conversations.value), "application/json")}>Export all</button>`}
      <input id="import" type="file" accept=".json,application/json" aria-label="Import conversations" hidden ref=${file} onchange=${load} />
    </p>
  </nav>`;
}
