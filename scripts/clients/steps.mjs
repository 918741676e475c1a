// What each client of JavaScript does with a service, and how it says so: one line of JSON a step.
export const { CLIENT_URL: URL, CLIENT_KEY: KEY, CLIENT_MODEL: MODEL } = process.env;
export const FIRST = "How hot may the board get?", SECOND = "And what happens then?", MAX_TOKENS = 60;

export const ASKED = "Switch on the LED of pin 4.";
export const TOOL = {
  type: "function",
  function: {
    name: "set_led",
    description: "Switch an LED on or off.",
    parameters: {
      type: "object",
      properties: { pin: { type: "integer", minimum: 0, maximum: 27 }, on: { type: "boolean" } },
      required: ["pin", "on"],
      additionalProperties: false,
    },
  },
};

export function isSwitched(call) {
  const { pin, on } = JSON.parse(call.function.arguments);
  return call.function.name === "set_led" && pin >= 0 && pin <= 27 && typeof on === "boolean";
}

export async function run(steps) {
  for (const [step, work] of Object.entries(steps)) {
    let problem = "";
    try {
      if (!await work()) problem = "nothing came";
    } catch (error) {
      console.error(error);
      problem = `${error.name}: ${error.message}`.slice(0, 300);
    }
    console.log(JSON.stringify({ step, problem }));
  }
}

export const isReport = value =>
  ["heat", "power", "storage"].includes(value.topic) && value.stars >= 1 && value.stars <= 5;
