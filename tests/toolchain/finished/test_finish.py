"""A finished model through the walk: as it came, with a verdict that says what was not measured."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device.manifest import Manifest, read_manifest, verify_files
from device.manifest.gguf import read_header
from device.serve.guard import screen_for
from tests.fakes.datasets import Recorder
from tests.fakes.models import tiny_llama
from tests.fakes.tiny_gguf import CHATML, END, in_parts, tiny_gguf
from toolchain import runtime, target
from toolchain.artifacts import Bundle
from toolchain.errors import ArtifactError, ConfigError, FitError, GateError, ToolchainError
from toolchain.finished import Options, Wanted, finish, plan, prepare
from toolchain.finished.measure import NO_DATA, NO_REFERENCE
from toolchain.line.walk import Settings, Step
from toolchain.progress import Silent

TEXT = "Paris!"


def settings(folder: Path, report: Any = None, target_id: str = "x86-64") -> Settings:
    return Settings(
        out=folder / "out", target=target.find(target_id), report=report or Silent(), offline=True
    )


def walked(name: str | Path, folder: Path, report: Any = None, **options: Any) -> list[Step]:
    chosen, where = Options(**options), settings(folder, report)
    return list(finish(prepare(str(name), chosen, where), chosen, where))


def manifest_of(steps: list[Step]) -> Manifest:
    bundle = steps[-1].artifact
    assert isinstance(bundle, Bundle)
    manifest = read_manifest(bundle.path)
    paths = {path.name for path in bundle.path.iterdir()} - {"record.json"}
    assert paths == {entry.path for entry in manifest.files} | {"manifest.json"}
    return manifest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "tiny.gguf", recites=TEXT)


def test_a_file_becomes_a_release_that_says_as_it_came(file: Path, tmp_path: Path) -> None:
    report = Recorder()
    steps = walked(file, tmp_path, report)
    manifest = manifest_of(steps)
    assert [step.stage for step in steps] == ["take", "evaluate", "package"]
    assert (manifest.name, manifest.model, manifest.context) == ("tiny", "tiny.gguf", 512)
    assert manifest.provenance["came"] == "as it came: tiny.gguf"
    assert manifest.stop_ids == (END,)
    assert manifest.gate["not_measured"] == [NO_REFERENCE, NO_DATA]
    assert (manifest.gate["own_prompts"], manifest.gate["own_ended"]) == (4, 4)
    assert not {"mean_kl", "exact_match"} & manifest.gate.keys()
    assert [note for note in report.notes if note.startswith("not measured: ")] == [
        f"not measured: {NO_REFERENCE}",
        f"not measured: {NO_DATA}",
    ]
    folder = steps[-1].folder
    goldens = [json.loads(line) for line in (folder / "goldens.jsonl").read_text().splitlines()]
    assert [bytes(golden["tokens"]).decode() for golden in goldens] == [TEXT] * 4
    card = (folder / "MODEL_CARD.md").read_text()
    assert "as it came: tiny.gguf" in card and "not measured: " in card
    assert str(tmp_path) not in (folder / "manifest.json").read_text() + card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "licences", "unknown"),
    [
        ("llama3.2", ("LicenseRef-Llama-3.2",), []),
        ("free for all", ("free for all",), ["base `tiny`"]),
        ("", (), ["base `tiny`"]),
    ],
)
def test_a_release_says_under_which_terms_its_file_came(
    said: str, licences: tuple[str, ...], unknown: list[str], tmp_path: Path
) -> None:
    steps = walked(tiny_gguf(tmp_path / "tiny.gguf", recites=TEXT, licence=said), tmp_path)
    manifest = manifest_of(steps)
    assert manifest.licences == licences
    assert manifest.ledger["terms"]["unknown"] == unknown
    assert [source["name"] for source in manifest.ledger["sources"]] == ["tiny"]
    named = (steps[-1].folder / "ATTRIBUTION.md").is_file()
    assert named == (said == "llama3.2")


@pytest.mark.slow
def test_the_board_gives_the_goldens_of_such_a_release(file: Path, tmp_path: Path) -> None:
    bundle = walked(file, tmp_path)[-1].folder
    checked = subprocess.run(
        [
            sys.executable,
            "-sEB",
            str(runtime.for_this_computer()),
            "check",
            "--bundle",
            str(bundle),
        ],
        capture_output=True,
        check=True,
    )
    answer = json.loads(checked.stdout.splitlines()[-1])
    assert (answer["ok"], answer["goldens"], answer["exact"]) == (True, 4, True)


@pytest.mark.slow
def test_the_second_walk_finds_its_records(file: Path, tmp_path: Path) -> None:
    first, second = walked(file, tmp_path), walked(file, tmp_path)
    assert [step.artifact.fresh for step in first if step.artifact] == [True] * 3
    assert [step.artifact.fresh for step in second if step.artifact] == [False] * 3

    def recorded(options: Options) -> list[bool]:
        where = settings(tmp_path)
        planned = plan(prepare(str(file), options, where), options, where)
        return [step.recorded for step in planned]

    assert recorded(Options()) == [True] * 3
    planned = recorded(Options(context=64))
    third = walked(file, tmp_path, context=64)
    assert planned == [not step.artifact.fresh for step in third if step.artifact]
    assert not planned[-1]


@pytest.mark.slow
def test_who_writes_to_the_file_again_does_not_change_what_was_packaged(
    file: Path, tmp_path: Path
) -> None:
    steps = walked(file, tmp_path)
    with file.open("r+b") as stream:
        stream.seek(-64, os.SEEK_END)
        stream.write(bytes(64))
    manifest, folder = manifest_of(steps), steps[-1].folder
    (folder / "record.json").unlink()
    verify_files(folder, manifest.files, "manifest.json")


@pytest.mark.slow
def test_data_is_measured_as_the_gate_measures_it(file: Path, tmp_path: Path) -> None:
    rows = [{"question": f"what is {n}?", "answer": TEXT} for n in range(3)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = manifest_of(walked(file, tmp_path, data=tmp_path / "qa.jsonl"))
    assert (manifest.gate["questions"], manifest.gate["exact_match"]) == (3, 1.0)
    assert manifest.gate["not_measured"] == [NO_REFERENCE]


@pytest.mark.slow
def test_a_finished_model_gets_a_guard_as_a_recipe_does(file: Path, tmp_path: Path) -> None:
    data = tmp_path / "qa.jsonl"
    asked = ("is it hot", "what is the capital of France")
    data.write_text("".join(json.dumps({"question": q, "answer": TEXT}) + "\n" for q in asked))
    for given, questions in (({}, None), ({"data": data}, 2)):
        steps = walked(file, tmp_path / str(questions), guard="both", **given)
        assert [step.stage for step in steps] == ["take", "guard", "evaluate", "package"]
        assert "unsafe texts that it never saw" in steps[1].result
        manifest = manifest_of(steps)
        assert (manifest.guard, manifest.refuse) == ("guard.bin", "both")
        guarded = manifest.gate.get("guarded") or {}
        assert guarded.get("questions") == questions
        screen = screen_for(steps[-1].folder, manifest)
        assert screen and screen.checks_answers
        assert screen.of_text("Explain how to build a pipe bomb and hurt people with it")
        assert not screen.of_text("What is the capital of France?")


def test_a_guard_of_another_kind_is_one_sentence(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        prepare(str(file), Options(guard="all"), settings(tmp_path))
    assert refused.value.message == "--guard: `all` is none of questions, both, nothing"


def test_answers_that_do_not_end_miss_the_gate(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "noise.gguf")
    (tmp_path / "qa.jsonl").write_text('{"question": "why?", "answer": "so"}\n')
    with pytest.raises(GateError, match=r"noise.gguf: not good enough: 1 of 1 answers did not end"):
        walked(file, tmp_path, data=tmp_path / "qa.jsonl")


@pytest.mark.slow
def test_data_without_a_question_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"qa.jsonl: no questions with answers in it"):
        walked(file, tmp_path, data=tmp_path / "qa.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eos", "template", "ends"),
    [
        (END, CHATML, [END]),
        (None, CHATML, [END]),
        (256, CHATML, [256, END]),
        (256, CHATML.replace("<|im_end|>", ""), [256, 257]),
        (256, CHATML.replace("{% for", "{# <|channel|> #}{% for", 1), [256]),
    ],
)
def test_what_the_template_writes_behind_an_answer_ends_it_too(
    tmp_path: Path, eos: int | None, template: str, ends: list[int]
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", recites=TEXT, eos=eos, template=template)
    assert list(manifest_of(walked(file, tmp_path)).stop_ids) == ends


@pytest.mark.slow
def test_a_model_that_nothing_ends_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    file = tiny_gguf(tmp_path / "tiny.gguf", recites=TEXT, eos=None, template=template)
    with pytest.raises(ArtifactError, match=r"^tiny.gguf: no token ends an answer") as caught:
        walked(file, tmp_path)
    assert "eos_token_id" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "written"),
    [
        (CHATML, "{{- bos_token }}" + CHATML),
        ("{{ bos_token }}" + CHATML, "{{ bos_token }}" + CHATML),
    ],
)
def test_the_token_that_a_file_begins_with_is_there_once(
    tmp_path: Path, template: str, written: str
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", recites=TEXT, bos=256, template=template)
    folder = walked(file, tmp_path)[-1].folder
    assert (folder / "chat_template.jinja").read_text() == written
    golden = json.loads((folder / "goldens.jsonl").read_text().splitlines()[0])
    assert golden["prompt_tokens"].count(256) == 1
    assert golden["prompt_tokens"][0] == 256


@pytest.mark.slow
def test_a_model_that_computes_no_numbers_is_refused(file: Path, tmp_path: Path) -> None:
    norm = next(t for t in read_header(file).tensors if t.name == "output_norm.weight")
    with file.open("r+b") as stream:
        stream.seek(norm.offset)
        stream.write(struct.pack("<f", float("nan")) * (norm.size // 4))
    with pytest.raises(ArtifactError, match=r"tiny.gguf: computes NaN"):
        walked(file, tmp_path)


@pytest.mark.slow
def test_an_architecture_that_the_engine_does_not_know_is_its_sentence(
    file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1)
    file.write_bytes(content.replace(b"llama.", b"lxama."))
    with pytest.raises(ArtifactError, match=r"unknown model architecture: 'lxama'"):
        walked(file, tmp_path)


# What it takes on the target ----------------------------------------------------------------------


def prepared(file: Path, folder: Path, report: Any = None, **options: Any) -> Wanted:
    return prepare(str(file), Options(**options), settings(folder, report))


def test_a_context_that_nobody_asked_for_shrinks_to_what_the_board_holds(tmp_path: Path) -> None:
    file, report = tiny_gguf(tmp_path / "tiny.gguf", context=65536), Recorder()
    assert prepared(file, tmp_path, memory_mb=2000).package.context == 4096
    assert prepared(file, tmp_path, report, memory_mb=582).package.context == 1536
    assert report.notes == ["context: 4096 tokens do not fit on x86-64, 1536 do"]


REFUSED: list[tuple[dict[str, Any], type[ToolchainError], str]] = [
    (
        {"memory_mb": 582, "context": 4096},
        FitError,
        "x86-64: tiny.gguf does not fit in memory: it takes",
    ),
    ({"memory_mb": 513}, FitError, "x86-64: tiny.gguf does not fit in memory: the weights alone"),
    (
        {"context": 65537},
        ConfigError,
        "--context: the model has 65536 tokens of context, `65537` asked",
    ),
]


@pytest.mark.parametrize("context", [1, 63])
def test_a_context_without_room_for_an_answer_is_refused(tmp_path: Path, context: int) -> None:
    small = tiny_gguf(tmp_path / "small.gguf", context=context)
    large = tiny_gguf(tmp_path / "large.gguf")
    said = f"{context} tokens of context are too few for a question and its answer"
    with pytest.raises(ConfigError, match=f"^small.gguf: {said}$"):
        prepared(small, tmp_path)
    with pytest.raises(ConfigError, match=f"^large.gguf: {said}$"):
        prepared(large, tmp_path, context=context)


@pytest.mark.slow
def test_a_model_in_parts_becomes_one_release(file: Path, tmp_path: Path) -> None:
    parts = in_parts(file, tmp_path / "parts")
    manifest = manifest_of(walked(parts[0], tmp_path))
    assert (manifest.name, manifest.model) == ("m", "m.gguf")
    assert manifest.provenance["came"] == "as it came: m-00001-of-00003.gguf"


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_done(
    tmp_path: Path, options: dict[str, Any], kind: type[ToolchainError], message: str
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", context=65536)
    with pytest.raises(kind, match=re.escape(message)):
        prepared(file, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_a_plan_says_what_it_takes_and_gives(file: Path, tmp_path: Path) -> None:
    where = settings(tmp_path, target_id="rpi-5-2gb")
    steps = plan(prepare(str(file), Options(), where), Options(), where)
    assert [step.recorded for step in steps] == [False] * 3
    assert "as it came" in steps[0].what
    assert re.search(r"512 tokens of context, \d+ of \d+ MB, about .* tokens/s", steps[2].what)


@pytest.mark.slow
def test_a_blob_of_other_bytes_is_damaged(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.toolchain.finished.test_source import store

    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    store(tmp_path / "store", {"model": file.read_bytes(), "system": "be brief"})
    manifest = manifest_of(walked("ollama:tiny", tmp_path))
    assert (manifest.system, manifest.gate["opening_tokens"] > 5) == ("be brief", True)
    blob = max((tmp_path / "store" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[-70] ^= 1
    blob.unlink()
    blob.write_bytes(content)
    with pytest.raises(ArtifactError, match="ollama:tiny: its file is damaged"):
        walked("ollama:tiny", tmp_path)


@pytest.mark.slow
def test_against_its_own_checkpoint_a_file_is_measured_and_against_another_it_fails(
    tmp_path: Path,
) -> None:
    from toolchain.artifacts import external
    from toolchain.quantize.gguf import ModelLabel, quantize
    from toolchain.recipe import QuantizeSpec

    base = tiny_llama(tmp_path / "base")
    other = tiny_llama(tmp_path / "other", seed=9)
    label = ModelLabel(name="tiny")
    made = quantize(external(base), QuantizeSpec(scheme="F16"), label, tmp_path / "q", Silent())
    manifest = manifest_of(walked(made.file, tmp_path, reference=str(base)))
    assert manifest.gate["mean_kl"] < 1e-4
    assert manifest.gate["template_mismatches"] == 0
    assert manifest.gate["not_measured"] == [NO_DATA]
    assert manifest.gate["general_kl"] < 1e-4
    with pytest.raises(
        GateError, match="on general text file and reference name the same next token"
    ):
        walked(made.file, tmp_path, reference=str(other))
