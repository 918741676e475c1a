"""langchain-openai."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from steps import (
    ASKED,
    FIRST,
    KEY,
    MAX_TOKENS,
    MODEL,
    SCHEMA,
    SECOND,
    TOOL,
    URL,
    report,
    run,
    switched,
)

chat = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=MAX_TOKENS)

long = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=400)


def turns() -> object:
    first = chat.invoke([HumanMessage(FIRST)])
    second = chat.invoke([HumanMessage(FIRST), first, HumanMessage(SECOND)])
    plain = OpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=MAX_TOKENS)
    return second.content and plain.generate([FIRST]).generations[0][0].text


def structured() -> object:
    described = {"title": "Report", "description": "A report.", **SCHEMA}
    held = chat.with_structured_output(described, method="json_schema", include_raw=True)
    first = held.invoke([HumanMessage(FIRST)])
    second = held.invoke([HumanMessage(FIRST), first["raw"], HumanMessage(SECOND)])
    return report(first["parsed"]) and report(second["parsed"])


def streaming() -> object:
    return "".join(chunk.content for chunk in chat.stream(FIRST))


def embeddings() -> object:
    found = OpenAIEmbeddings(
        base_url=URL, api_key=KEY, model=MODEL, check_embedding_ctx_length=False
    )
    return found.embed_documents([FIRST, SECOND])[0]


def tools() -> object:
    able = long.bind_tools([TOOL], tool_choice="required")
    made = able.invoke([HumanMessage(ASKED)])
    results = [ToolMessage("done", tool_call_id=each["id"]) for each in made.tool_calls]
    again = long.bind_tools([TOOL]).invoke([HumanMessage(ASKED), made, *results])
    right = [switched(each["name"], each["args"]) for each in made.tool_calls]
    return right and all(right) and again.response_metadata


def streamed_tools() -> object:
    parts = list(long.bind_tools([TOOL], tool_choice="set_led").stream(ASKED))
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    return [switched(each["name"], each["args"]) for each in whole.tool_calls]


def responses() -> object:
    other = ChatOpenAI(
        base_url=URL, api_key=KEY, model=MODEL, max_tokens=400, use_responses_api=True
    )
    first = other.invoke([HumanMessage(FIRST)])
    second = other.invoke([HumanMessage(FIRST), first, HumanMessage(SECOND)])
    called = other.bind_tools([TOOL], tool_choice="set_led").invoke(ASKED).tool_calls
    return second.content and all(switched(each["name"], each["args"]) for each in called)


run(turns, structured, streaming, embeddings, tools, streamed_tools, responses)
