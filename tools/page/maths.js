/* Loaded by the first formula. */
export { render } from "katex";
