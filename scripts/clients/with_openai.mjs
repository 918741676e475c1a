// openai for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SECOND, TOOL, URL, isReport, isSwitched, run } from "./steps.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY }), asked = { model: MODEL, max_tokens: MAX_TOKENS };
const Report = z.object({ topic: z.enum(["heat", "power", "storage"]), urgent: z.boolean(), stars: z.int().min(1).max(5) });
const user = content => ({ role: "user", content });

await run({
  async turns() {
    const first = await client.chat.completions.create({ ...asked, messages: [user(FIRST)] });
    const talk = [user(FIRST), first.choices[0].message, user(SECOND)];
    return (await client.chat.completions.create({ ...asked, messages: talk })).choices[0].message.content;
  },
  async structured() {
    const form = { ...asked, response_format: zodResponseFormat(Report, "report") };
    const first = await client.chat.completions.parse({ ...form, messages: [user(FIRST)] });
    const talk = [user(FIRST), first.choices[0].message, user(SECOND)];
    return isReport((await client.chat.completions.parse({ ...form, messages: talk })).choices[0].message.parsed);
  },
  async streaming() {
    let text = "";
    const stream = client.chat.completions.stream({ ...asked, messages: [user(FIRST)] });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    const whole = await stream.finalMessage();
    const talk = [user(FIRST), whole, user(SECOND)];
    const again = await client.chat.completions.create({ ...asked, messages: talk });
    return text === whole.content && again.choices[0].message.content;
  },
  async tools() {
    const talk = [user(ASKED)], form = { ...asked, max_tokens: 400, tools: [TOOL] };
    const first = await client.chat.completions.create({ ...form, messages: talk, tool_choice: "required" });
    const message = first.choices[0].message;
    const results = message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: "done" }));
    const again = await client.chat.completions.create({ ...form, messages: [...talk, message, ...results] });
    return message.tool_calls.every(isSwitched) && again.choices[0].finish_reason;
  },
  async streamed_tools() {
    const form = { ...asked, max_tokens: 400, tools: [TOOL], tool_choice: "required" };
    const whole = await client.chat.completions.stream({ ...form, messages: [user(ASKED)] }).finalMessage();
    return whole.tool_calls.every(isSwitched);
  },
  async responses() {
    const form = { model: MODEL, max_output_tokens: 400 };
    const first = await client.responses.create({ ...form, input: FIRST });
    const talk = [user(FIRST), ...first.output, user(SECOND)];
    let text = "";
    const stream = client.responses.stream({ ...form, input: talk });
    for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
    return text === (await stream.finalResponse()).output_text;
  },
  async embeddings() {
    return (await client.embeddings.create({ model: MODEL, input: [FIRST, SECOND] })).data[0].embedding.length;
  },
});
