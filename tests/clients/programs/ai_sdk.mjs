// AI SDK: a text, a stream, and generateObject, which forces a tool or a schema.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText } from "ai";
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { z } from "zod";

const board = createOpenAICompatible({ name: "board", baseURL: `${process.argv[2]}/v1`, apiKey: "any" });
const { text } = await generateText({ model: board("qwen3-4b"), prompt: "hi", seed: 1, temperature: 0.2 });
assert.equal(text, "Hello there.");
let streamed = "";
for await (const part of streamText({ model: board("qwen3-4b"), prompt: "hi" }).textStream) streamed += part;
assert.equal(streamed, "Hello there.");
const { object } = await generateObject({
  model: board("ada"), schema: z.object({ name: z.string(), age: z.number() }), prompt: "Ada Lovelace died at 36.",
});
assert.deepEqual(object, { name: "Ada", age: 36 });
console.log(JSON.parse(readFileSync("node_modules/ai/package.json")).version);
