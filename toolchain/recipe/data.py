"""`[data]` and `[ingest]`: conversations, where they come from, and how they are cleaned."""

import fnmatch
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal, get_args

from pydantic import (
    Field,
    model_validator,
)

from toolchain.config import Frozen
from toolchain.recipe.kinds import Fraction, Licence, Personal, Text, Words


class TurnSpec(Frozen):
    """A question and its answer that every conversation begins with, as an example of an answer."""

    question: Text
    answer: Text


class CleanSpec(Frozen):
    """What is wrong with text that people bring, and what is done about it."""

    mode: Literal["off", "report", "mend"] = "report"
    """`report` counts what it finds and changes nothing."""
    html: bool = True
    """Whether text is looked at for HTML; it is such only where its tags are closed again."""
    # Measured on the starter's answers with one or two words changed: found at 0.5 99 %, at 0.6
    # 96.5 %, at 0.7 84.5 %, at 0.8 (the usual default) 66.5 %; distinct answers joined at 0.6: 0.
    near_duplicates: Fraction = 0.6
    """Share of common pieces of five characters from which on two texts are near-duplicates; 0
    looks for none."""
    languages: tuple[str, ...] = ()
    """Languages that entries may have, such as `zh` and `en`; empty: any."""


SECRETS_FILE = ".demitasse-secrets.jsonl"
"""File beside a recipe in which redaction keeps what it replaced, for the test of leaks."""


class RedactSpec(Frozen):
    """Which personal data is looked for in the text, and what is done with it."""

    mode: Literal["off", "report", "replace", "refuse"] = "report"
    """`report` counts what it finds and changes nothing; `refuse` ends the run where there is any.
    """
    kinds: tuple[Personal, ...] = get_args(Personal)
    keep: tuple[str, ...] = ()
    """Values that are nobody's secret, such as `400-820-8820` or `*@ourfirm.example`: they stay."""
    surrogates: Literal["placeholder", "lifelike"] = "placeholder"
    """`placeholder` writes `[phone-k7f3qa]`, `lifelike` a value of the same shape that is nobody's.
    """


def means(pattern: str, name: str) -> bool:
    """Say whether a pattern of a source means a file: its path, its folder, or a glob."""
    path, asked = PurePosixPath(name), PurePosixPath(pattern)
    return path == asked or asked in path.parents or fnmatch.fnmatchcase(name, pattern)


class SourceSpec(Frozen):
    """Where some of the recipe's files are from, and under which terms."""

    files: tuple[Text, ...] = Field(
        min_length=1, description="files, folders or patterns, as the recipe names them elsewhere"
    )
    licence: Licence = Field(
        description="SPDX expression; `LicenseRef-ours` for your own, `LicenseRef-NAME` for others"
    )
    subject: Words = Field(
        default="", description="key of a row that names the person whom the row is about"
    )
    url: Words = ""
    attribution: Words = Field(default="", description="words with which its authors are named")
    note: Words = ""
    public: bool = False
    """Whether nobody is to be protected in it: with `[tune.privacy]` it may travel as it is."""

    def covers(self, name: str) -> bool:
        """Say whether these terms are those of a file."""
        return any(means(pattern, name) for pattern in self.files)


class DataSpec(Frozen):
    """What the model is to know."""

    files: tuple[str, ...] = Field(
        default=(),
        description="JSONL, JSON, CSV, TSV, Parquet, text or Markdown files, also as `.gz`, and "
        "folders of such files, relative to the recipe",
    )
    map: Mapping[Literal["question", "answer", "messages", "system"], Text] = Field(default={})
    """Our key → the key that the files have for it, where it is called otherwise."""
    hold_out: Literal["phrasing", "conversation"] = "conversation"
    """`phrasing`: of each question with several phrasings one is held out; `conversation`: a share
    of whole entries."""
    held_out_share: Fraction = 0.1
    """Share of the entries that are held out where `hold_out` is `conversation`."""
    held_out: tuple[str, ...] = ()
    """Those of `files` that are held out as they are, such as wordings by another author; then
    nothing else is."""
    newest: tuple[str, ...] = ()
    """Files of the newest round: all their entries are learned. `[round]` sets it."""
    replay: Fraction = 1.0
    """Share of the entries of all other files that is learned. `[round]` sets it."""
    images: str = ""
    """Folder of the pictures that rows name as `image`, relative to the recipe."""
    system: str = ""
    """System prompt of every conversation that has none."""
    documents: tuple[str, ...] = ()
    """Text files, relative to the recipe, whose text follows the system prompt: what every
    conversation may draw on."""
    tools: str = ""
    """JSON file, relative to the recipe: tools in OpenAI's form that every conversation may call
    that names none itself."""
    turns: tuple[TurnSpec, ...] = ()
    """Behind it: turns that every such conversation begins with."""
    clean: CleanSpec = CleanSpec()
    redact: RedactSpec = RedactSpec()
    sources: tuple[SourceSpec, ...] = ()
    """Terms of the recipe's files, those of `[knowledge]` included; of a file without them the
    ledger says that they are unknown."""
    strict: bool = False
    """Refuse to package a model while the terms of any source are unknown."""

    @model_validator(mode="after")
    def _one_form(self) -> "DataSpec":
        if self.map and set(self.map) - {"system"} not in ({"question", "answer"}, {"messages"}):
            raise ValueError("`map` names `question` and `answer`, or `messages`")
        return self

    def without_terms(self) -> "DataSpec":
        """Return what decides the data set: its terms may be corrected later."""
        return self.model_copy(update={"sources": (), "strict": False})


class IngestSpec(Frozen):
    """Who reads the data; what comes out is the same whoever does."""

    processes: int = Field(default=0, ge=0)
    """Processes of this computer that read shards; 0: one a core."""
    engine: Literal["processes", "ray"] = "processes"
    """`ray` has the shards read on the nodes of a cluster; recipe and work folder must lie where
    all of them find them under the same name. Needs the extra `ray`."""
    address: str = ""
    """Address of the cluster's head; empty: what Ray finds, such as RAY_ADDRESS."""
