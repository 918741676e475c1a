"""How chat templates write calls of tools, as facts: one row a markup.

What a template writes is found by rendering a call with it (tool_calls.py), never by its name. The
grammar of an answer and its reader are made of the same row. Standard library only.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from device.manifest.braces import written

Message = Mapping[str, Any]

ID = "\0"
"""Place of a call's id in a row: nine letters or digits, as Mistral's templates ask."""
ID_CHARS = 9
_ID = re.compile(f"[a-zA-Z0-9]{{{ID_CHARS}}}")


def short_id(given: str) -> str:
    """Return an id of nine letters and digits; the same one for the same id."""
    return given if _ID.fullmatch(given) else hashlib.sha256(given.encode()).hexdigest()[:ID_CHARS]


@dataclass(frozen=True)
class Markup:
    """How one kind of template writes calls."""

    name: str
    trigger: str
    """Text with which the first call begins."""
    head: str
    """Text between the trigger and the function's name."""
    middle: str
    """Text between the name and the arguments."""
    end: str
    """Text after the arguments."""
    between: str = "\n"
    """Text between two calls of one answer."""
    again: str = ""
    """Text with which each following call begins; empty: trigger and head."""
    last: str = ""
    """Text after the last call."""
    quote: str = ""
    """Token around texts of arguments that are no JSON (braces.py); empty: they are JSON."""
    native: bool = True
    """Whether the template shows tools and calls itself."""
    several: bool = True
    """Whether one answer may hold several calls."""
    anywhere: bool = True
    """Whether a call may follow other text; if not, it is the whole answer."""
    in_question: bool = False
    """Whether the tools' description stands in the first question: there is no system turn."""

    @property
    def opening(self) -> str:
        """Text before the name of the first call."""
        return self.trigger + self.head

    @property
    def reopening(self) -> str:
        """Text before the name of each following call."""
        return self.again or self.opening

    @property
    def has_ids(self) -> bool:
        """Whether calls are written with their ids, which are short."""
        return ID in self.middle + self.end

    @property
    def before_id(self) -> str:
        """Text after which a call's id comes; empty if calls are written without one."""
        for part, before in ((self.middle, ""), (self.end, "}")):
            if ID in part:
                return before + part.partition(ID)[0]
        return ""

    def call(self, name: str, arguments: Mapping[str, Any], call_id: str = "") -> str:
        """Return the text of a call as templates of this markup write it, the first one."""
        return self.opening + self._from_name(name, arguments, call_id) + self.last

    def calls(self, calls: Sequence[Message]) -> str:
        """Return the text of all calls of one answer."""
        texts = [
            self._from_name(
                each["function"]["name"], each["function"]["arguments"], each.get("id", "")
            )
            for each in calls
        ]
        return self.opening + (self.between + self.reopening).join(texts) + self.last

    def _from_name(self, name: str, arguments: Mapping[str, Any], call_id: str) -> str:
        if self.quote:
            body = written(arguments, self.quote)
        else:
            body = json.dumps(arguments, ensure_ascii=False)
        middle, end = (part.replace(ID, short_id(call_id)) for part in (self.middle, self.end))
        return f"{name}{middle}{body}{end}"


HERMES = Markup("hermes", "<tool_call>", '\n{"name": "', '", "arguments": ', "}\n</tool_call>")
LLAMA3 = Markup("llama3", '{"name": "', "", '", "parameters": ', "}", several=False, anywhere=False)
MISTRAL = Markup("mistral", "[TOOL_CALLS]", "", "[ARGS]", "", between="")
"""Mistral's templates from tokenizer v11 on: Devstral, Ministral 3."""
MISTRAL_IDS = Markup("mistral-ids", "[TOOL_CALLS]", "", f"[CALL_ID]{ID}[ARGS]", "", between="")
"""Mistral Small 3.2."""
MISTRAL_LIST = Markup(
    "mistral-list",
    "[TOOL_CALLS]",
    '[{"name": "',
    '", "arguments": ',
    f', "id": "{ID}"}}',
    between=", ",
    again='{"name": "',
    last="]",
)
"""Mistral's templates up to tokenizer v7: Nemo."""
FUNCTION_GEMMA = Markup(
    "functiongemma",
    "<start_function_call>",
    "call:",
    "",
    "<end_function_call>",
    between="",
    quote="<escape>",
)
GEMMA4 = Markup("gemma4", "<|tool_call>", "call:", "", "<tool_call|>", between="", quote='<|"|>')
NATIVE = (HERMES, LLAMA3, MISTRAL, MISTRAL_IDS, MISTRAL_LIST, FUNCTION_GEMMA, GEMMA4)
"""Markups that are looked for in what a template writes."""
GENERIC = replace(HERMES, name="generic", native=False)
GENERIC_IN_QUESTION = replace(GENERIC, in_question=True)
"""For templates that refuse a system turn."""
