// openai-node: models, a chat with every habit, a stream.
import OpenAI from "openai";
import assert from "node:assert";
import { readFileSync } from "node:fs";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any" });
const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert(names.includes("qwen3-4b"), names);
const messages = [{ role: "user", content: "hi" }];
const answer = await client.chat.completions.create({
  model: "qwen3-4b", messages, seed: 1, temperature: 0.3, logit_bias: { 1: 1 }, reasoning_effort: "low",
});
assert.equal(answer.choices[0].message.content, "Hello there.");
let text = "";
const stream = await client.chat.completions.create({ model: "qwen3-4b", messages, stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.equal(text, "Hello there.");
const vectors = await client.embeddings.create({ model: "story", input: ["hi"], dimensions: 4 });
assert.equal(vectors.data[0].embedding.length, 4);
console.log(JSON.parse(readFileSync("node_modules/openai/package.json")).version);
