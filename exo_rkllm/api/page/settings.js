/* Settings of one conversation, and the key. */
import { useEffect, useRef } from "./vendor/libs.js";
import { html } from "./html.js";
import { apiKey, link, problem, useKey } from "./daemon.js";
import { current, save, touch, watch } from "./conversations.js";

const THINK = { "": "as the model does", true: "yes", false: "no" };

export const openSettings = () => document.getElementById("settings").showModal();
export const openKey = () => document.getElementById("key-box").showModal();

export function Settings() {
  const conversation = current.value;
  watch(conversation);
  const { settings } = conversation;
  const change = (name, value) => {
    settings[name] = value;
    touch(conversation);
    if (conversation.messages.length) save(conversation);
  };
  const figure = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? undefined : Number(text));
  return html`<dialog id="settings" aria-labelledby="settings-title"><form method="dialog">
    <h2 id="settings-title">Settings of this conversation</h2>
    <label for="system">System prompt</label>
    <textarea id="system" rows="4" dir="auto" placeholder="How the model is to answer" value=${settings.system || ""} oninput=${(event) => change("system", event.target.value)}></textarea>
    <div class="pair">
      <p><label for="setting-temperature">Temperature</label>
        <input id="setting-temperature" type="number" min="0" max="2" step="0.1" placeholder="the model's own" value=${settings.temperature ?? ""} oninput=${(event) => change("temperature", figure(event.target.value))} /></p>
      <p><label for="length">Longest answer, in tokens</label>
        <input id="length" type="number" min="1" step="1" placeholder="no limit" value=${settings.length ?? ""} oninput=${(event) => change("length", figure(event.target.value))} /></p>
      <p><label for="think">Thinks before it answers</label>
        <select id="think" value=${String(settings.think ?? "")} onchange=${(event) => change("think", { true: true, false: false }[event.target.value])}>
          ${Object.entries(THINK).map(([value, text]) => html`<option value=${value}>${text}</option>`)}</select></p>
    </div>
    <p class="buttons"><button type="submit">Done</button></p>
  </form></dialog>`;
}

export function KeyBox() {
  const dialog = useRef(), input = useRef();
  const needed = link.value.state === "key";
  useEffect(() => { if (needed && !dialog.current.open) dialog.current.showModal(); }, [link.value]);
  const use = (event) => {
    event.preventDefault();
    dialog.current.close();
    useKey(input.current.value.trim());
  };
  return html`<dialog id="key-box" ref=${dialog} aria-labelledby="key-title"><form id="key-form" method="dialog" onsubmit=${use}>
    <h2 id="key-title">API key</h2>
    <p>Beyond this machine the daemon asks for a key. One with the right to control also loads and unloads models. It stays in this tab.</p>
    ${needed && problem.value && html`<p class="trouble" role="alert">${problem.value.text}</p>`}
    <label for="key">Key</label>
    <input id="key" ref=${input} type="password" autocomplete="off" spellcheck="false" defaultValue=${apiKey.value} />
    <p class="buttons"><button type="button" id="key-drop" class="quiet" onclick=${() => { input.current.value = ""; input.current.form.requestSubmit(); }}>Forget</button><button type="submit">Use it</button></p>
  </form></dialog>`;
}
