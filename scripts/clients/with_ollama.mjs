// ollama for Node; its service is at the address without `/v1`. There is no choice of tools: an
// answer in words is no problem.
import { Ollama } from "ollama";
import { ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SECOND, TOOL, URL, isReport, isSwitched, run } from "./steps.mjs";

const client = new Ollama({ host: URL.replace(/\/v1\/?$/, ""), headers: { Authorization: `Bearer ${KEY}` } });
const asked = { model: MODEL, options: { num_predict: MAX_TOKENS } };
const user = content => ({ role: "user", content });
const schema = {
  type: "object",
  properties: {
    topic: { type: "string", enum: ["heat", "power", "storage"] },
    urgent: { type: "boolean" },
    stars: { type: "integer", minimum: 1, maximum: 5 },
  },
  required: ["topic", "urgent", "stars"],
};
const isCalled = ({ function: called }) =>
  isSwitched({ function: { ...called, arguments: JSON.stringify(called.arguments) } });

await run({
  async turns() {
    const first = await client.chat({ ...asked, messages: [user(FIRST)] });
    const second = await client.chat({ ...asked, messages: [user(FIRST), first.message, user(SECOND)] });
    const plain = await client.generate({ ...asked, prompt: FIRST });
    const { models } = await client.list();
    await client.show({ model: MODEL });
    return second.message.content && plain.response && models.length;
  },
  async structured() {
    const reply = await client.chat({ ...asked, messages: [user(FIRST)], format: schema });
    return isReport(JSON.parse(reply.message.content));
  },
  async streaming() {
    let text = "";
    for await (const part of await client.chat({ ...asked, messages: [user(FIRST)], stream: true })) text += part.message.content;
    return text;
  },
  async embeddings() {
    return (await client.embed({ model: MODEL, input: [FIRST, SECOND] })).embeddings[1].length;
  },
  async tools() {
    const form = { model: MODEL, tools: [TOOL], options: { num_predict: 400 } };
    const { message } = await client.chat({ ...form, messages: [user(ASKED)] });
    const calls = message.tool_calls ?? [];
    const results = calls.map(call => ({ role: "tool", tool_name: call.function.name, content: "done" }));
    const again = await client.chat({ ...form, messages: [user(ASKED), message, ...results, user(SECOND)] });
    return calls.every(isCalled) && again.done_reason;
  },
  async streamed_tools() {
    const calls = [];
    const form = { model: MODEL, tools: [TOOL], options: { num_predict: 400 }, stream: true };
    for await (const part of await client.chat({ ...form, messages: [user(ASKED)] })) calls.push(...part.message.tool_calls ?? []);
    return calls.every(isCalled);
  },
});
