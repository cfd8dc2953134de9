/* LaTeX for markdown-it: $x$, \(x\), $$x$$ and \[x\], as models write it. A token's content is the formula. */

const SPACE = /\s/, DIGIT = /[0-9]/;

function inline(state, silent) {
  const { src, pos } = state;
  let open, close;
  if (src.startsWith("\\(", pos)) [open, close] = ["\\(", "\\)"];
  else if (src.startsWith("\\[", pos)) [open, close] = ["\\[", "\\]"];
  else if (src.startsWith("$$", pos)) open = close = "$$";
  else if (src[pos] === "$") open = close = "$";
  else return false;
  const start = pos + open.length;
  let end = start;
  do {
    end = src.indexOf(close, end);
    if (end < 0) return false;
    if (close[0] === "\\" || src[end - 1] !== "\\") break;
  } while (end++);
  // "$5 and $6" are prices: a formula has no space inside its dollars, and no digit behind them.
  if (open === "$" && (SPACE.test(src[start]) || SPACE.test(src[end - 1]) || DIGIT.test(src[end + 1] || ""))) return false;
  if (!src.slice(start, end).trim()) return false;
  if (!silent) {
    const token = state.push("formula", "", 0);
    token.content = src.slice(start, end).trim();
    token.markup = open;
  }
  state.pos = end + close.length;
  return true;
}

function block(state, first, last, silent) {
  const text = (line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]);
  const begin = text(first);
  const open = ["$$", "\\["].find((mark) => begin.startsWith(mark));
  if (!open || state.sCount[first] - state.blkIndent >= 4) return false;
  const close = open === "$$" ? "$$" : "\\]";
  const lines = [];
  for (let line = first, rest = begin.slice(2); line < last; rest = text(++line)) {
    const end = rest.indexOf(close);
    if (end >= 0 && rest.slice(end + 2).trim()) return false; // text behind it: a formula in a paragraph
    lines.push(end < 0 ? rest : rest.slice(0, end));
    if (end < 0) continue;
    if (silent) return true;
    const token = state.push("formula", "", 0);
    token.block = true;
    token.content = lines.join("\n").trim();
    token.markup = "$$";
    token.map = [first, line + 1];
    state.line = line + 1;
    return true;
  }
  return false; // not closed yet
}

export function latex(md) {
  md.inline.ruler.before("escape", "formula", inline);
  md.block.ruler.before("fence", "formula", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
}
