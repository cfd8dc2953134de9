/* Markdown to DOM nodes, while it is still being written. Text of a model becomes text nodes, never markup.

   Only what may still change is parsed again: a block is settled once another one follows it. Nodes that exist are kept
   and text is appended to them, so that a selection survives. Colours and formulas come afterwards, in slices. */
import { MarkdownIt, lowlight } from "./vendor/libs.js";
import { copy } from "./html.js";
import { latex } from "./latex.js";

const md = new MarkdownIt({ html: false, linkify: true, breaks: true }).use(latex);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
md.disable("image"); // nothing is fetched from elsewhere; a picture's link is still a link
export const effort = { milliseconds: 0 }; // of the latest write
const SLICE = 8; // milliseconds of work between two frames
const LONGEST_COLOURED = 40_000; // characters
const SAFE = /^(https?|mailto):/i;

/* ── work between frames ──────────────────────────────────────────────────────────────────────── */

const jobs = new Map(); // node to what is to be done with it
let working = false;

function later(node, job) {
  jobs.set(node, job);
  if (!working) setTimeout(work);
  working = true;
}

function work() {
  const end = performance.now() + SLICE;
  for (const [node, job] of jobs) {
    jobs.delete(node);
    job();
    if (performance.now() > end) break;
  }
  working = jobs.size > 0;
  if (working) setTimeout(work, 16);
}

/* ── nodes ────────────────────────────────────────────────────────────────────────────────────── */

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function coloured(hast) {
  return hast.children.map((child) => (child.type === "text" ? document.createTextNode(child.value)
    : element("span", { class: child.properties.className?.join(" ") }, ...coloured(child))));
}

/* Returns the milliseconds that it took. */
function colour(code, language) {
  const text = code.textContent, began = performance.now();
  if (!code.isConnected || text.length > LONGEST_COLOURED) return 0;
  const fresh = document.createElement("code");
  fresh.append(...coloured(lowlight.highlight(language, text)));
  morph(code, fresh);
  return performance.now() - began;
}

function codeBlock(text, language) {
  const code = element("code", {}, text);
  const known = language && lowlight.registered(language) ? language : null;
  const button = element("button", { type: "button", class: "plain copy" }, "Copy");
  button.onclick = async () => {
    await copy(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const box = element("div", { class: "code", dir: "ltr" }, element("div", { class: "bar" }, element("span", {}, language || "text"), button),
    element("pre", { tabindex: 0 }, code));
  let pause = 0, timer = 0;
  const paint = () => later(code, () => { pause = 10 * colour(code, known); });
  const recolour = () => { timer ||= setTimeout(() => { timer = 0; paint(); }, pause); };
  box.grow = (more) => {
    const old = code.textContent, fresh = more.querySelector("code").textContent;
    if (old === fresh) return true;
    if (!fresh.startsWith(old) || more.querySelector(".bar span").textContent !== (language || "text")) return false;
    const last = code.lastChild;
    if (last?.nodeType === Node.TEXT_NODE) last.appendData(fresh.slice(old.length));
    else code.append(fresh.slice(old.length));
    if (known && fresh.includes("\n", old.length)) recolour();
    return true;
  };
  if (known) paint();
  return box;
}

let maths = null;
function loadMaths() {
  maths ??= (async () => {
    document.head.append(element("link", { rel: "stylesheet", href: "/page/vendor/maths.css" }));
    const { render } = await import("./vendor/maths.js");
    return render;
  })();
  return maths;
}

/* The page's policy allows no fonts from addresses, only those that a script has read. */
const FONTS = ["AMS-Regular", "Caligraphic-Regular", "Main-Bold", "Main-BoldItalic", "Main-Italic", "Main-Regular", "Math-BoldItalic",
  "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular", "Typewriter-Regular"];
let fonts = null;
function loadFonts() {
  fonts ??= Promise.all(FONTS.map(async (name) => {
    const [family, face] = name.split("-");
    const response = await fetch(`/page/vendor/fonts/KaTeX_${name}.woff2`);
    const style = { weight: face.startsWith("Bold") ? "bold" : "normal", style: face.endsWith("Italic") ? "italic" : "normal" };
    document.fonts.add(new FontFace(`KaTeX_${family}`, await response.arrayBuffer(), style));
  })).catch(() => { fonts = null; });
}

function formula(token) {
  const block = token.block || token.markup === "$$" || token.markup === "\\[";
  const node = element(token.block ? "div" : "span", { class: block ? "formula block" : "formula", dir: "ltr" }, token.content);
  node.source = token.content;
  node.grow = (more) => more.source === node.source && more.className === node.className;
  loadFonts();
  loadMaths().then((render) => later(node, () => {
    if (node.isConnected) render(token.content, node, { displayMode: block, throwOnError: false, maxSize: 20, maxExpand: 200, strict: false });
  }), () => { maths = null; });
  return node;
}

/* ── tokens to nodes ──────────────────────────────────────────────────────────────────────────── */

function inlines(tokens) {
  const top = document.createDocumentFragment();
  const open = [top];
  const add = (node) => open[open.length - 1].append(node);
  for (const token of tokens) {
    if (token.nesting > 0) {
      const node = token.type === "link_open" ? link(token.attrGet("href")) : element(token.tag);
      add(node);
      open.push(node);
    } else if (token.nesting < 0) open.pop();
    else if (token.type === "text" || token.type === "text_special") add(token.content);
    else if (token.type === "code_inline") add(element("code", {}, token.content));
    else if (token.type === "softbreak" || token.type === "hardbreak") add(element("br"));
    else if (token.type === "formula") add(formula(token));
    else add(token.content);
  }
  top.normalize();
  return top;
}

const link = (href) => (SAFE.test(href) ? element("a", { href, target: "_blank", rel: "noopener noreferrer" }) : element("span"));

/* The token groups of the outermost blocks. */
function blocks(tokens) {
  const groups = [];
  let group = [];
  for (const token of tokens) {
    group.push(token);
    if (token.level === 0 && token.nesting <= 0) {
      groups.push(group);
      group = [];
    }
  }
  return groups;
}

const DIRECTED = new Set(["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "blockquote", "td", "th", "li"]);

function node(group) {
  const root = document.createDocumentFragment();
  const open = [root];
  const add = (child) => open[open.length - 1].append(child);
  for (const token of group) {
    if (token.type === "inline") add(inlines(token.children));
    else if (token.type === "fence" || token.type === "code_block") add(codeBlock(token.content, (token.info || "").trim().split(/\s+/)[0].toLowerCase()));
    else if (token.type === "formula") add(formula(token));
    else if (token.type === "hr") add(element("hr"));
    else if (token.nesting > 0) {
      const child = element(token.tag, { dir: DIRECTED.has(token.tag) ? "auto" : null, start: token.attrGet("start"), class: alignment(token) });
      if (token.hidden) { open.push(open[open.length - 1]); continue; } // the paragraph of a tight list
      if (token.tag === "table") {
        add(element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Table" }, child));
      } else add(child);
      open.push(child);
    } else if (token.nesting < 0) open.pop();
  }
  root.normalize();
  return root.firstChild;
}

const alignment = (token) => (token.attrGet("style")?.match(/text-align:(center|right)/) || [])[1];

/* Makes `old` like `fresh` with as few changes as possible. */
function morph(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, index) => {
    const own = before[index];
    if (!own) old.append(node);
    else if (!adapt(own, node)) own.replaceWith(node);
  });
  for (const extra of before.slice(after.length)) extra.remove();
}

function adapt(own, node) {
  if (own.nodeName !== node.nodeName) return false;
  if (own.nodeType === Node.TEXT_NODE) {
    if (node.data.startsWith(own.data)) own.appendData(node.data.slice(own.data.length));
    else own.data = node.data;
    return true;
  }
  if (own.grow || node.grow) return Boolean(own.grow && node.grow && own.grow(node));
  if (own.className !== node.className || own.getAttribute("href") !== node.getAttribute("href")) return false;
  morph(own, node);
  return true;
}

/* Writes a growing text into a node. */
export class Writer {
  constructor(root) {
    this.root = root;
    this.reset();
  }

  reset() {
    this.root.replaceChildren();
    this.env = {};
    this.text = "";
    this.settled = 0; // characters and nodes that will not change any more
    this.nodes = 0;
  }

  write(given) {
    const text = given.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.text)) this.reset();
    if (text === this.text) return;
    this.text = text;
    const began = performance.now();
    const tail = text.slice(this.settled);
    const groups = blocks(md.parse(tail, this.env));
    const fresh = groups.map(node);
    fresh.forEach((block, index) => {
      const own = this.root.childNodes[this.nodes + index];
      if (!own) this.root.append(block);
      else if (!adapt(own, block)) own.replaceWith(block);
    });
    while (this.root.childNodes.length > this.nodes + fresh.length) this.root.lastChild.remove();
    if (groups.length > 1) {
      this.settled += offset(tail, groups[groups.length - 1][0].map[0]);
      this.nodes += groups.length - 1;
    }
    effort.milliseconds = performance.now() - began;
  }
}

function offset(text, lines) {
  let at = 0;
  while (lines--) at = text.indexOf("\n", at) + 1;
  return at;
}
