"""Personal data in the many formats that people write: found to its last character, or named here.

What is out of reach stands in a table, so that a rule that reaches it has to say so.
"""

from pathlib import Path

import pytest

from tests.fakes.written import FORMATS, Written, written
from toolchain.ingest.redact import NOT_LOOKED_FOR, Redactor
from toolchain.recipe import RedactSpec

ROOT = Path(__file__).resolve().parents[3]
RULES = Redactor(RedactSpec(), bytes(32))
OUT_OF_REACH = {
    "phone": {"@mobile56"},
    "email": {"@word at firma.de"},
    "plate": {"使01####"},
    "name": {"经理⟦唐建⟧批准"},
}
"""Formats that no rule finds: without a cue they are a number, or words of a sentence."""


def is_covered(each: Written) -> bool:
    """Say whether no letter and no digit of a value would be left."""
    start = each.text.index(each.value)
    hits = [hit for hit in RULES.hits(each.text) if hit.surrogate]
    places = (at for at in range(start, start + len(each.value)) if each.text[at].isalnum())
    return all(any(hit.start <= at < hit.end for hit in hits) for at in places)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_found_whole_but_those_that_are_known_not_to_be(kind: str) -> None:
    missed = {
        each.format for half in (0, 1) for each in written(kind, half) if not is_covered(each)
    }
    assert missed == OUT_OF_REACH.get(kind, set())


@pytest.mark.parametrize("kind", OUT_OF_REACH)
def test_a_report_says_what_is_out_of_reach(kind: str) -> None:
    assert kind in NOT_LOOKED_FOR


@pytest.mark.parametrize(
    "text",
    [
        "token = AutoTokenizer.from_pretrained('a/b-7b')",
        "password = config.values[0]; token_ids_0 = 3; passed: 12345678",
        "[00545.227783] usb 1-1; +1.12345679",
        "id=ba64eb1f-165f-8d20-5ff0-0123456789ab",
        "aes128-gcm@openssh.com, getty@tty1.service",
        "谢谢老师，也许老师会来，高中老师，马上医生就到",
        "look at the dot on the screen, look at github.com",
        "Im Jahr 2020, 10000 Menschen",
        "This is Raspberry Pi OS. I'm Sure",
        "客户何时，患者周围，客户高兴，",
        "使100000人受益",
        "00 01 02 03 04 05 06 07 08 09",
        "price @ 3 . 5",
        "license plate is required",
        "DE12 3456 7890 1234 5678 90 and GB00NWBK60161331926819 are no accounts",
    ],
)
def test_code_logs_and_sentences_hold_nobody(text: str) -> None:
    assert [text[hit.start : hit.end] for hit in RULES.hits(text) if hit.surrogate] == []


PERSONS = {"Brown's", "Weber", "Patel's", "Helena Brandt", "Okafor", "+44 20 7946 0018"}
"""Invented persons and a telephone number in the texts that ship."""
QUOTED = {"93.93.128.193"}
"""An address that a package manager prints, in a question."""


def test_of_the_documents_that_ship_no_other_word_is_taken_for_a_person() -> None:
    files = [*(ROOT / "recipes").rglob("*.md"), *(ROOT / "recipes").rglob("*.jsonl")]
    files += (ROOT / "toolchain").glob("general*")
    texts = [text for file in files for text in file.read_text("utf-8").splitlines()]
    found = {
        text[hit.start : hit.end] for text in texts for hit in RULES.hits(text) if hit.surrogate
    }
    assert sum(map(len, texts)) > 1_000_000
    assert found == PERSONS | QUOTED
