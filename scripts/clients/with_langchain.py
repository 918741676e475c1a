"""langchain-openai."""

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from steps import FIRST, KEY, MAX_TOKENS, MODEL, SCHEMA, SECOND, URL, report, run

chat = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=MAX_TOKENS)


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


run(turns, structured, streaming, embeddings)
