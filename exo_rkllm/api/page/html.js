/* Preact's `html` templates, which need no build. */
import { h, htm } from "./vendor/libs.js";

export const html = htm.bind(h);

/* For `ref`, once as the element comes: a function made in the template would be called at each drawing. */
export const focus = (element) => element?.focus();
export const select = (element) => element?.select();

/* Also works off localhost without TLS, where browsers offer no clipboard. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = document.createElement("textarea");
    box.value = text;
    box.className = "unseen";
    const { activeElement } = document;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    activeElement?.focus();
  }
}

export function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
