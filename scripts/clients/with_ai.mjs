// `ai` with @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateText, streamText } from "ai";
import { z } from "zod";
import { FIRST, KEY, MAX_TOKENS, MODEL, SECOND, URL, isReport, run } from "./steps.mjs";

const board = createOpenAICompatible({ name: "board", baseURL: URL, apiKey: KEY, supportsStructuredOutputs: true });
const asked = { model: board(MODEL), maxOutputTokens: MAX_TOKENS };
const Report = z.object({ topic: z.enum(["heat", "power", "storage"]), urgent: z.boolean(), stars: z.int().min(1).max(5) });
const user = content => ({ role: "user", content });

await run({
  async turns() {
    const first = await generateText({ ...asked, messages: [user(FIRST)] });
    const talk = [user(FIRST), ...first.response.messages, user(SECOND)];
    return (await generateText({ ...asked, messages: talk })).text;
  },
  async structured() {
    const form = { ...asked, output: Output.object({ schema: Report }) };
    const first = await generateText({ ...form, messages: [user(FIRST)] });
    const talk = [user(FIRST), ...first.response.messages, user(SECOND)];
    return isReport((await generateText({ ...form, messages: talk })).output);
  },
  async streaming() {
    let text = "";
    for await (const part of streamText({ ...asked, messages: [user(FIRST)] }).textStream) text += part;
    return text;
  },
  async embeddings() {
    return (await embedMany({ model: board.embeddingModel(MODEL), values: [FIRST, SECOND] })).embeddings[0].length;
  },
});
