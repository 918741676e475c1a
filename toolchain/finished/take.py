"""take(Source) → ModelFile: the file as it came, its template, and what the engine says of it.

The engine runs as a child process, so a file that crashes it gives a sentence here. No byte of the
model is changed.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from device.manifest import TEMPLATE, TOKENIZER
from toolchain.artifacts import ModelFile, Work, digest, keep
from toolchain.config import Frozen
from toolchain.errors import ArtifactError
from toolchain.figures import ModelFigures
from toolchain.files import write_whole
from toolchain.finished.look import Seen
from toolchain.finished.source import Source
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer, scorer

ADAPTER = "adapter.gguf"
_CLONE = 0x40049409
"""FICLONE of linux/fs.h: a copy that shares its blocks, on file systems that can."""
_MARK = "QUITE-ORDINARY-WORDS"
"""Answer that no template contains; what a template writes after it ends an answer."""
_PROBE_CONTEXT = 512


class _Parameters(Frozen):
    stop_ids: tuple[int, ...]
    stops: tuple[str, ...]
    context: int


def take(source: Source, seen: Seen, runtime: Path, out: Path, report: Reporter) -> ModelFile:
    """Take a finished model as it is.

    Raises ArtifactError if the engine cannot run it, or if no token ends its answers.
    """
    inputs = {
        "file": _digest(source, seen),
        "template": sha256(seen.template.encode()).hexdigest(),
        "runtime": runtime.name,
    }
    inputs |= {
        name: digest(file)
        for name, file in (("adapter", source.adapter), ("tokenizer", seen.tokenizer))
        if file
    }
    work = Work(
        stage="take",
        inputs=inputs,
        parameters=_Parameters(stop_ids=seen.stop_ids, stops=source.stops, context=seen.context),
    )
    record, fresh = keep(
        out, work, lambda folder: _build(source, seen, runtime, folder, report), ModelFigures
    )
    return ModelFile(path=out, record=record, fresh=fresh)


def _digest(source: Source, seen: Seen) -> str:
    """Return the digest of the file; raise ArtifactError if a store says another one."""
    found = digest(seen.file)
    if source.sha256 and found != source.sha256 and seen.file == source.file:
        raise ArtifactError(
            f"{source.said}: its file is damaged: its bytes are not those it is named after",
            hint="fetch it again",
        )
    return found


def _build(source: Source, seen: Seen, runtime: Path, out: Path, report: Reporter) -> ModelFigures:
    file = out / f"{source.id}{seen.row.suffix}"
    place(seen.file, file, immutable=source.immutable)
    if source.adapter:
        place(source.adapter, out / ADAPTER, immutable=source.immutable)
    if seen.tokenizer:
        place(seen.tokenizer, out / TOKENIZER)

    write_whole(out / TEMPLATE, seen.template)
    adapter = out / ADAPTER if source.adapter else None
    with scorer(runtime, file, context=min(_PROBE_CONTEXT, seen.context), adapter=adapter) as child:
        about = child.info()
        begins = _begins(child, seen)
        ends = _ends(child, source, seen, report)

    if begins:
        write_whole(out / TEMPLATE, "{{- bos_token }}" + seen.template)
        report.note(f"template: `{begins}` is put before it, as llama.cpp does for this file")

    contents = seen.contents
    stored = sum(share.size_bytes for share in contents.types)
    return ModelFigures(
        file=file.name,
        scheme=contents.scheme,
        architecture=contents.architecture,
        size_bytes=file.stat().st_size,
        real_bpw=contents.bits,
        parameters=contents.parameters,
        context=seen.context,
        stop_ids=sorted({*seen.stop_ids, *ends}),
        weights_bytes=stored,
        kv_bytes_per_token=seen.kv_bytes_per_token,
        n_vocab=int(about["n_vocab"]),
        kv_type=seen.kv_type,
        prefill=list(seen.prefill) if seen.prefill is not None else None,
        warnings=list(contents.warnings),
        adapter_file=ADAPTER if adapter else None,
    )


def place(source: Path, target: Path, *, immutable: bool = False) -> None:
    """Put a user's file into a folder of ours: a hard link if it never changes, else a copy.

    A hard link to a file that its owner writes again would change what was packaged.
    """
    if immutable:
        with suppress(OSError):
            os.link(source.resolve(), target)
            return

    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _CLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 20)


def _begins(child: Scorer, seen: Seen) -> str:
    """Return the text of a token that prompts must begin with and do not; "" if none is missing.

    None is missing if the template writes it, or if the file wants none.
    """
    if not seen.begins:
        return ""
    with suppress(ArtifactError):
        text = child.rendered([{"role": "user", "content": _MARK}])
        return "" if text.lstrip().startswith(seen.begins) else seen.begins
    return ""


def _ends(child: Scorer, source: Source, seen: Seen, report: Reporter) -> set[int]:
    """Return the tokens that end an answer and that the header does not name.

    Raises ArtifactError if no token ends an answer at all.
    """
    ends = {_after_an_answer(child, seen)} - {None}
    for text in source.stops:
        tokens = child.tokenize(text)
        if len(tokens) == 1 and seen.is_special(tokens[0]):
            ends.add(tokens[0])
        else:
            report.note(
                f"not honoured: the stop text {text!r}: it is no special token of this model"
            )

    if not ends and not seen.stop_ids:
        raise ArtifactError(
            f"{source.said}: no token ends an answer: "
            "the file names none, and its template writes none",
            hint="`gguf-set-metadata FILE tokenizer.ggml.eos_token_id ID` "
            "of the Python package gguf names one",
        )

    return {each for each in ends if each is not None}


def _after_an_answer(child: Scorer, seen: Seen) -> int | None:
    """Return the special token that the template writes after an answer; None for none.

    In a template with channels (gpt-oss) that token also stands between thoughts and answer, and
    does not end either.
    """
    if "<|channel|>" in seen.template:
        return None

    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _MARK}]
    try:
        text = child.rendered([*talk, {"role": "user", "content": "and now?"}])
    except ArtifactError:
        return None

    tail = text.partition(_MARK)[2].lstrip()
    tokens = child.tokenize(tail[:64]) if tail else []
    return tokens[0] if tokens and seen.is_special(tokens[0]) else None
