/* Builds exo_rkllm/api/page/vendor from the packages in package-lock.json:

     cd tools/page && npm ci && npm run build

   The result is committed, so that pip, dpkg and a fresh clone need no npm; `tests/page/test_vendor.py` builds it again
   and compares. `--out FOLDER` builds elsewhere. */
import { build } from "esbuild";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const given = process.argv.indexOf("--out");
const out = given < 0 ? path.join(here, "../../exo_rkllm/api/page/vendor") : process.argv[given + 1];
fs.rmSync(out, { recursive: true, force: true });

/* Sans-serif, script, Fraktur and bold calligraphic letters are rare in answers; they fall back to the page's font. */
const FONTS = ["AMS-Regular", "Caligraphic-Regular", "Main-Bold", "Main-BoldItalic", "Main-Italic", "Main-Regular",
  "Math-BoldItalic", "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular", "Size4-Regular", "Typewriter-Regular"];

const common = { absWorkingDir: here, bundle: true, minify: true, legalComments: "none", metafile: true, logLevel: "warning" };
const scripts = await build({ ...common, entryPoints: ["libs.js", "maths.js"], outdir: out, format: "esm", target: "es2022", charset: "utf8" });
const katex = path.join(here, "node_modules/katex/dist");
fs.mkdirSync(path.join(out, "fonts"));
for (const font of FONTS) fs.copyFileSync(path.join(katex, `fonts/KaTeX_${font}.woff2`), path.join(out, `fonts/KaTeX_${font}.woff2`));
/* The page's policy has no source for fonts: maths.js fetches them, so no @font-face may ask for one. */
fs.writeFileSync(path.join(out, "maths.css"), fs.readFileSync(path.join(katex, "katex.min.css"), "utf8").replace(/@font-face\{[^}]*\}/g, ""));

const folders = new Set(Object.keys(scripts.metafile.inputs).map((file) => file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]).filter(Boolean));
const libraries = [], licences = [];
for (const name of [...folders].sort()) {
  const folder = path.join(here, "node_modules", name);
  const { version, license } = JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8"));
  const file = fs.readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  if (!license || !file) throw new Error(`${name} has no licence`);
  libraries.push({ name, version, license });
  licences.push(`${name} ${version} (${license})\n\n${fs.readFileSync(path.join(folder, file), "utf8").trim()}\n`);
}
fs.writeFileSync(path.join(out, "libraries.json"), JSON.stringify(libraries, null, 2) + "\n");
fs.writeFileSync(path.join(out, "LICENSES.txt"), licences.join(`\n${"-".repeat(80)}\n\n`).replace(/\r/g, ""));
