// `ai` with @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SECOND, URL, isReport, run } from "./steps.mjs";

const board = createOpenAICompatible({ name: "board", baseURL: URL, apiKey: KEY, supportsStructuredOutputs: true });
const asked = { model: board(MODEL), maxOutputTokens: MAX_TOKENS };
const Report = z.object({ topic: z.enum(["heat", "power", "storage"]), urgent: z.boolean(), stars: z.int().min(1).max(5) });
const Switch = z.object({ pin: z.int().min(0).max(27), on: z.boolean() });
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
  async tools() {
    const set_led = tool({ description: "Switch an LED.", inputSchema: Switch, execute: async () => "done" });
    const made = await generateText({ ...asked, maxOutputTokens: 400, tools: { set_led }, toolChoice: "required", messages: [user(ASKED)] });
    const talk = [user(ASKED), ...made.response.messages, user(SECOND)];
    const again = await generateText({ ...asked, tools: { set_led }, messages: talk });
    return made.toolCalls.length && made.toolCalls.every(call => call.toolName === "set_led") && again.finishReason;
  },
  async streamed_tools() {
    const set_led = tool({ description: "Switch an LED.", inputSchema: Switch });
    const stream = streamText({ ...asked, maxOutputTokens: 400, tools: { set_led }, toolChoice: "required", messages: [user(ASKED)] });
    return (await stream.toolCalls).every(call => Switch.safeParse(call.input).success);
  },
  async embeddings() {
    return (await embedMany({ model: board.embeddingModel(MODEL), values: [FIRST, SECOND] })).embeddings[0].length;
  },
});
