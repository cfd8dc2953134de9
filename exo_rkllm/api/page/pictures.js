/* Pictures are drawn on canvases, since the page's policy lets no <img> show data. */
import { useEffect, useRef } from "./vendor/libs.js";
import { html } from "./html.js";

const LARGEST = 1024; // pixels; models see less
const SHOWN = 320;

function scaled(bitmap, largest) {
  const scale = Math.min(1, largest / Math.max(bitmap.width, bitmap.height));
  return [Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale))];
}

/* A file as a data URL, no larger than a model can use. */
export async function pictureOf(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = scaled(bitmap, LARGEST);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

export function Picture({ data }) {
  const canvas = useRef();
  useEffect(() => {
    const bytes = Uint8Array.from(atob(data.slice(data.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
    createImageBitmap(new Blob([bytes])).then((bitmap) => {
      if (!canvas.current) return;
      [canvas.current.width, canvas.current.height] = scaled(bitmap, SHOWN);
      canvas.current.getContext("2d").drawImage(bitmap, 0, 0, canvas.current.width, canvas.current.height);
    }).catch(() => {});
  }, [data]);
  return html`<canvas class="picture" role="img" aria-label="Picture" ref=${canvas} width="1" height="1"></canvas>`;
}
