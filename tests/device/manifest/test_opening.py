"""Where an opening is put, and which of them a manifest may bring."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.manifest import BUNDLE_MANIFEST, ManifestError, read_manifest
from device.manifest.opening import bare, begins, opened, opening_of
from tests.fakes.bundles import make_bundle

MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.sampled_from("ab")}
)
TURN = st.sampled_from("ab").map(
    lambda text: [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
)
OPENING = st.builds(
    lambda system, turns: opening_of(system, [message for turn in turns for message in turn]),
    st.sampled_from(["", "a"]),
    st.lists(TURN, max_size=2),
)
ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}


@given(st.lists(MESSAGE, max_size=6), OPENING)
def test_an_opening_is_put_there_once_and_what_is_taken_off_comes_back(
    messages: list[Any], opening: Any
) -> None:
    whole = list(opened(messages, opening))
    assert list(opened(whole, opening)) == whole
    assert list(opened(bare(whole, opening), opening)) == whole
    assert begins(whole, opening) or whole[0]["role"] == "system"
    assert whole[len(whole) - len(messages) :] == messages


def test_a_conversation_is_bare_of_its_opening_and_never_of_all() -> None:
    opening = opening_of("be brief", [ASKED, ANSWERED])
    assert list(bare([*opening, ASKED], opening)) == [ASKED]
    assert list(bare(opening, opening)) == list(opening)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"system": 5}, "manifest.json: `system` is of the wrong kind or out of bounds"),
    ({"turns": 5}, "`turns` must be a list of messages with `role` and `content`"),
    ({"turns": [5]}, "`turns` must be a list of messages with `role` and `content`"),
    ({"turns": [{"role": "user"}]}, "`turns` must be a list of messages with `role` and `content`"),
    (
        {"turns": [{**ASKED, "name": "x"}]},
        "`turns` must be a list of messages with `role` and `content`",
    ),
    (
        {"turns": [{"role": "user", "content": 5}]},
        "`turns` must be a list of messages with `role` and `content`",
    ),
    (
        {"turns": [ASKED]},
        "`turns` must be questions of `user`, each followed by its answer of `assistant`",
    ),
    (
        {"turns": [ANSWERED, ASKED]},
        "`turns` must be questions of `user`, each followed by its answer of `assistant`",
    ),
    (
        {"turns": [ASKED, {"role": [], "content": "a"}]},
        "`turns` must be questions of `user`, each followed by its answer of `assistant`",
    ),
    (
        {"turns": [ASKED, {**ANSWERED, "content": "\ud800"}]},
        "`system` and `turns` must be valid Unicode",
    ),
    (
        {"system": "é" * (1 << 19), "turns": [ASKED, ANSWERED]},
        "`system` and `turns` have 1,048,578 bytes, at most 1,048,576 are allowed",
    ),
]


@pytest.mark.parametrize(
    ("fields", "message"), BAD, ids=[f"{number}" for number in range(len(BAD))]
)
def test_a_manifest_with_an_opening_that_is_none_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    file = make_bundle(tmp_path / "made").path / BUNDLE_MANIFEST
    file.write_text(json.dumps(json.loads(file.read_bytes()) | fields))
    with pytest.raises(ManifestError) as caught:
        read_manifest(file.parent)
    assert (caught.value.code, str(caught.value)) == ("bad_manifest", message)


def test_a_manifest_without_turns_has_none_and_one_with_them_opens_with_them(
    tmp_path: Path,
) -> None:
    file = make_bundle(tmp_path / "made").path / BUNDLE_MANIFEST
    fields = json.loads(file.read_bytes())
    del fields["turns"]
    file.write_text(json.dumps(fields))
    assert read_manifest(file.parent).opening == ()
    file.write_text(json.dumps(fields | {"system": "be brief", "turns": [ASKED, ANSWERED]}))
    assert read_manifest(file.parent).opening == (
        {"role": "system", "content": "be brief"},
        ASKED,
        ANSWERED,
    )
