"""Stage know on real components: a tiny embedder, documents of several kinds, the real runtime."""

import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from device.manifest import EMBEDDER, KNOWLEDGE
from device.manifest.knowledge import POOLING
from tests.fakes.tiny_bert import tiny_bert
from toolchain import runtime
from toolchain.errors import ConfigError, GateError
from toolchain.know import know
from toolchain.knowledge.source import embedder_folder
from toolchain.knowledge.texts import read_texts
from toolchain.progress import SILENT
from toolchain.recipe import KnowledgeSpec
from toolchain.runtime.recall import recall

FAQ = (
    ("how hot is my pi?", "80 degrees: the fan spins."),
    ("why is the board so hot?", "The card is over the board."),
    ("树莓派太热", "风扇。"),
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "bert")


def lines(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def near(tmp_path: Path, bert: Path) -> Path:
    """A recipe's folder with documents and questions."""
    near = tmp_path / "recipe"
    near.mkdir()
    shutil.copytree(bert, near / "bert")
    lines(near / "faq.jsonl", *({"question": [q], "answer": a} for q, a in FAQ))
    (near / "pages").mkdir()
    (near / "pages" / "fan.md").write_text("# Fan\n\n## Power\n\nThe fan spins over night.\n")
    lines(
        near / "questions.jsonl",
        {"entry": 0, "question": ["hot pi", "degrees"]},
        {"source": "pages/fan.md", "heading": "Power", "question": ["fan over night", "power"]},
    )
    lines(near / "none.jsonl", {"entry": None, "question": ["x y z", "cafe"]})
    lines(
        near / "fresh.jsonl",
        {"question": "is the pi hot", "entry": 0},
        {"question": "night fan", "source": "pages/fan.md", "heading": "Power"},
        {"question": "naive cafe", "entry": None},
    )
    return near


def spec(**changes: Any) -> KnowledgeSpec:
    usual = {
        "files": ["faq.jsonl", "pages"],
        "questions": ["questions.jsonl"],
        "unanswered": ["none.jsonl"],
        "tuning": ["fresh.jsonl"],
        "fresh": ["fresh.jsonl"],
        "embedder": "bert",
    }
    return KnowledgeSpec.model_validate({**usual, **changes})


def made(near: Path, out: Path, **changes: Any):  # type: ignore[no-untyped-def]
    folder = runtime.for_this_computer()
    wanted = spec(**changes)
    texts = read_texts(wanted, near)
    return know(texts, wanted, near, folder, out, SILENT, offline=True, seed=0)


def test_documents_become_an_index_that_the_board_searches(near: Path, tmp_path: Path) -> None:
    done = made(near, tmp_path / "work" / "know")
    figures = done.figures
    assert (figures.passages, figures.questions, figures.unanswered) == (4, 7, 2)
    assert (figures.fresh.answerable, figures.fresh.unanswerable) == (2, 1)
    folder = runtime.for_this_computer()
    with recall(folder, done.path / EMBEDDER, done.path / KNOWLEDGE) as child:
        assert child.search("fan over night", 1).passages == (4,)
        assert child.search("degrees", 1).passages == (1,)


def test_documents_without_questions_are_found_by_their_parts(near: Path, tmp_path: Path) -> None:
    subject = "It stands on a desk. " * 12
    (near / "pages" / "long.md").write_text(f"# Desk\n\n{subject}The degrees of naive cafe.")
    done = made(near, tmp_path / "know", files=["pages"], questions=[], tuning=[], fresh=[])
    assert (done.figures.questions, done.figures.fresh_bare) == (0, None)
    assert done.figures.parts == 3

    folder = runtime.for_this_computer()
    with recall(folder, done.path / EMBEDDER, done.path / KNOWLEDGE) as child:
        assert child.search("The degrees of naive cafe.", 1).passages == (2,)


@pytest.mark.slow
def test_equal_documents_give_equal_files_and_are_not_read_again(
    near: Path, tmp_path: Path
) -> None:
    one, other = (made(near, tmp_path / name / "know") for name in ("a", "b"))
    assert one.digest == other.digest
    assert not made(near, tmp_path / "a" / "know").fresh


@pytest.mark.slow
def test_a_changed_page_needs_the_vectors_of_its_own_text_alone(near: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "know"
    before = made(near, out, tune=True)
    embedder = (out / EMBEDDER).read_bytes()
    with closing(sqlite3.connect(out.parent / "vectors.db")) as db:
        count = db.execute("SELECT count(*) FROM vectors").fetchone()[0]

    page = near / "pages" / "fan.md"
    page.write_text(page.read_text().replace("over night", "over the board"))
    after = made(near, out, tune=True)
    assert after.digest != before.digest
    assert (out / EMBEDDER).read_bytes() == embedder
    with closing(sqlite3.connect(out.parent / "vectors.db")) as db:
        assert db.execute("SELECT count(*) FROM vectors").fetchone()[0] == count + 1


@pytest.mark.slow
def test_a_tuned_embedder_is_another_one_and_its_questions_draw_near(
    near: Path, tmp_path: Path, bert: Path
) -> None:
    plain = made(near, tmp_path / "a" / "know")
    tuned = made(
        near, tmp_path / "b" / "know", tune={"epochs": 60, "batch_size": 8, "learning_rate": 5e-3}
    )
    assert tuned.figures.tuned
    assert not plain.figures.tuned

    def nearness(folder: Path) -> float:
        with recall(runtime.for_this_computer(), folder / EMBEDDER) as child:
            one, partner, other = child.embed(["hot pi", "degrees", "fan over night"])
        return float(one @ partner - one @ other)

    assert nearness(tuned.path) > nearness(plain.path) + 0.2


@pytest.mark.slow
def test_the_gate_names_each_limit_that_was_missed(near: Path, tmp_path: Path) -> None:
    lines(
        near / "wrong.jsonl",
        {"question": "degrees", "entry": 1},
        {"question": FAQ[0][0], "entry": None},
    )
    gate = {"min_first": 0.9, "min_right": 0.9, "max_false": 0.0}
    with pytest.raises(GateError) as caught:
        made(near, tmp_path / "know", tuning=[], fresh=["wrong.jsonl"], gate=gate)
    assert "0.0% of 1 fresh questions found their passage first" in str(caught.value)
    assert "100.0% of 1 questions without an answer were answered" in str(caught.value)


def test_only_what_is_fitted_pools_the_questions_of_a_passage(near: Path, tmp_path: Path) -> None:
    for tuning, pooling in ((["fresh.jsonl"], POOLING), ([], 0.0)):
        done = made(near, tmp_path / str(bool(tuning)) / "know", tuning=tuning)
        with closing(sqlite3.connect(done.path / KNOWLEDGE)) as db:
            facts = dict(db.execute("SELECT name, value FROM facts"))
        assert facts["pooling"] == pooling


def test_without_questions_a_fit_treats_all_passages_alike(near: Path, tmp_path: Path) -> None:
    # Passages of one sentence have no parts, which made them look new beside the others.
    subject = "It stands on a desk. " * 12
    (near / "pages" / "long.md").write_text(f"# Desk\n\n{subject}The degrees of naive cafe.")
    place = {"source": "pages/long.md", "heading": "Desk"}
    lines(
        near / "long.jsonl",
        {"question": ["degrees of naive cafe", "what stands on a desk"], **place},
        {"question": ["fan over night", "over the board"], "entry": None},
    )
    changes = {"files": ["pages"], "questions": [], "tuning": ["long.jsonl"], "fresh": []}
    done = made(near, tmp_path / "know", **changes)
    with closing(sqlite3.connect(done.path / KNOWLEDGE)) as db:
        facts = dict(db.execute("SELECT name, value FROM facts"))
    assert facts["threshold"] > 0.0
    assert (facts["bare"], facts["bare_next"], facts["pooling"]) == (0.0, 0.0, 0.0)
    assert facts["bare_threshold"] == facts["threshold"]


@pytest.mark.slow
def test_another_passage_that_answers_too_supports_an_answer(near: Path, tmp_path: Path) -> None:
    # Another entry's own question: a search that was not fitted must be sure of it.
    asked = {"question": FAQ[0][0], "entry": 1}
    lines(near / "one.jsonl", asked)
    lines(near / "both.jsonl", {**asked, "also": [{"entry": 0}]})
    gate = {"max_wrong": 0.5}
    with pytest.raises(GateError, match=r"100\.0% of 1 fresh questions were answered with a pass"):
        made(near, tmp_path / "a" / "know", tuning=[], fresh=["one.jsonl"], gate=gate)
    scores = made(near, tmp_path / "b" / "know", tuning=[], fresh=["both.jsonl"], gate=gate).figures
    assert (scores.fresh.right, scores.fresh.also, scores.fresh.wrong) == (0.0, 1.0, 0.0)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"question": "x", "entry": 9}, "there are 3 entries"),
        ({"question": "x", "entry": True}, "there are 3 entries"),
        ({"question": "x", "source": "pages/fan.md", "heading": "No"}, "no section `No`"),
        ({"question": 3, "entry": 0}, "`question` must be a text"),
        ({"question": "x"}, "names no passage: neither `entry` nor `source`"),
        ({"question": "x", "source": "pages/fan.md"}, "no section"),
        (
            {"question": "x", "entry": None, "also": [{"entry": 0}]},
            "`also` names passages that answer, and `entry` says that none does",
        ),
        ({"question": "x", "entry": 0, "also": 1}, "`also` must be a list of places"),
        ({"question": "x", "entry": 0, "also": [{"entry": 9}]}, "there are 3 entries"),
    ],
)
def test_a_wrong_line_of_questions_is_named(
    near: Path, tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    lines(near / "bad.jsonl", row)
    with pytest.raises(ConfigError) as caught:
        made(near, tmp_path / "know", fresh=["bad.jsonl"])
    assert problem in str(caught.value)
    assert "bad.jsonl:1" in str(caught.value)


@pytest.mark.slow
def test_documents_without_text_and_missing_files_are_named(near: Path, tmp_path: Path) -> None:
    (near / "empty").mkdir()
    (near / "empty" / "a.md").write_text("\n")
    with pytest.raises(ConfigError) as caught:
        made(near, tmp_path / "know", files=["empty"], questions=[], fresh=[], tuning=[])
    assert "empty/a.md" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        made(near, tmp_path / "know", questions=["nothing.jsonl"])
    assert "nothing.jsonl" in str(caught.value)


def test_an_archive_that_a_package_ships_is_unpacked_once(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    about = site / "tiny_embedder-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-embedder\nVersion: 1.0\n")
    (about / "RECORD").write_text("tiny_embedder/model.zip,,\n")
    (site / "tiny_embedder").mkdir()
    archive = site / "tiny_embedder" / "model.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for file in bert.rglob("*"):
            members.write(file, Path("deep") / file.relative_to(bert))
    monkeypatch.syspath_prepend(str(site))

    name = "package:tiny-embedder/model.zip"
    folder = embedder_folder(name, tmp_path, tmp_path / "cache", SILENT, offline=True)
    assert (folder / "modules.json").is_file()
    assert embedder_folder(name, tmp_path, tmp_path / "cache", SILENT, offline=True) == folder


def test_an_archive_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.errors import ArtifactError
    from toolchain.knowledge import source

    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../outside", "x")
    with pytest.raises(ArtifactError, match="outside"):
        source._unpacked(archive, "package:x/model.zip", tmp_path)
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.slow
def test_rows_with_other_names_and_untidy_text_are_found_by_their_number(
    near: Path, tmp_path: Path
) -> None:
    lines(
        near / "faq.jsonl",
        {"prompt": "is it soft?", "completion": "It is sof\u00adt."},
        {"question": "café?", "answer": "A Cafe\u0301\u200b."},
    )
    lines(near / "questions.jsonl", {"entry": 1, "question": ["cafe", "naive"]})
    lines(near / "fresh.jsonl", {"question": "soft", "entry": 0}, {"question": "x", "entry": 1})
    figures = made(near, tmp_path / "know", files=["faq.jsonl"]).figures
    assert (figures.fresh.answerable, figures.fresh.unanswerable) == (2, 0)
    assert figures.questions == 4


@pytest.mark.slow
def test_a_row_that_cannot_be_read_is_left_out_and_keeps_its_number(near: Path) -> None:
    file = near / "faq.jsonl"
    first, _, third = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join((first, '{"question": "\\ud83d"}', "", third)), encoding="utf-8")
    lines(near / "fresh.jsonl", {"question": "x", "entry": 2})
    texts = read_texts(spec(questions=[], tuning=[]), near)
    (asked,) = texts.fresh
    assert [texts.library.passages[each - 1].text for each in asked.right] == ["风扇。"]
    assert texts.library.files["faq.jsonl"].left_out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'question,answer\nHow far?,\nHow soft?,Very.\nunreadable,"x\n'),
        ("a.tsv", "Frage\tAntwort\nHow far?\t\nHow soft?\tVery.\n"),
        ("a.json", '{"How far?": "", "How soft?": "Very."}'),
        ("a.ndjson", '{"q": "How far?"}\n{"q": "How soft?", "a": "Very."}\n'),
    ],
)
def test_the_rows_of_each_kind_of_table_have_numbers(near: Path, name: str, text: str) -> None:
    (near / name).write_text(text, encoding="utf-8")
    lines(near / "fresh.jsonl", {"question": "is it soft", "entry": 1})
    texts = read_texts(spec(files=[name], questions=[], tuning=[]), near)
    (asked,) = texts.fresh
    assert [texts.library.passages[each - 1].text for each in asked.right] == ["Very."]


def test_a_question_that_nothing_answers_finds_no_passage(near: Path) -> None:
    lines(near / "questions.jsonl", {"question": "x", "entry": 0}, {"question": "y", "entry": None})
    with pytest.raises(ConfigError, match=r"questions\.jsonl:2: no passage answers it") as caught:
        read_texts(spec(), near)
    assert "`unanswered`" in (caught.value.hint or "")


def test_an_entry_whose_row_gave_no_passage_is_named(near: Path, tmp_path: Path) -> None:
    rows = [{"question": [q], "answer": a} for q, a in FAQ]
    lines(near / "faq.jsonl", *rows, {"question": "empty?", "answer": " "})
    lines(near / "fresh.jsonl", {"question": "soft", "entry": 3})
    with pytest.raises(ConfigError, match="its row gave no passage"):
        made(near, tmp_path / "know")


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_what_is_tuned_is_the_vector_that_the_board_computes(
    near: Path, tmp_path: Path, pooling: str
) -> None:
    from transformers import AutoModel, AutoTokenizer

    from toolchain.knowledge.contrast import Lesson
    from toolchain.knowledge.contrast_loss import ContrastLoss
    from toolchain.knowledge.embedder import write_embedder
    from toolchain.recipe import ContrastSpec

    folder = near / "bert"
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    with recall(
        runtime.for_this_computer(), write_embedder(folder, tmp_path / "e.gguf", "F16").file
    ) as child:
        board = child.embed(["the fan spins over night"])[0]
    lesson = Lesson(answers=["a", "b"], questions=[["c", "d"], ["e", "f"]])
    objective = ContrastLoss(
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
        lesson,
        (),
        ContrastSpec(),
        first=pooling == "pooling_mode_cls_token",
    )
    tuned = objective.embed(["the fan spins over night"])[0].detach().float().numpy()
    assert float(tuned @ board) > 0.999


@pytest.mark.slow
def test_a_damaged_cache_of_vectors_is_begun_anew(near: Path, tmp_path: Path) -> None:
    out = tmp_path / "work" / "know"
    first = made(near, out)
    cache = out.parent / "vectors.db"
    damaged = bytearray(cache.read_bytes())
    damaged[4096 : 4096 + 512] = b"\xff" * 512
    cache.write_bytes(bytes(damaged))
    shutil.rmtree(out)
    assert made(near, out).digest == first.digest


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    from toolchain.errors import ArtifactError
    from toolchain.knowledge import source

    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("modules.json", "x" * 1000)
    raw = bytearray(archive.read_bytes())
    raw[100] ^= 0xFF
    archive.write_bytes(bytes(raw))
    with pytest.raises(ArtifactError, match="damaged"):
        source._unpacked(archive, "package:x/model.zip", tmp_path)
