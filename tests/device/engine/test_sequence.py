"""The sequence in memory: what is reused of it, and what is left when a saved state is broken."""

from collections.abc import Callable, Sequence

from device.engine.sequence import ReadSequence


class FakeCells:
    """A memory whose states are the tokens themselves, as many bytes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.evaluated: list[int] = []

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        assert start == len(self.tokens)
        self.tokens += tokens
        self.evaluated += tokens
        return True

    def watch(self, cancelled: "Callable[[], bool] | None") -> None:
        pass

    def cut_to(self, length: int) -> bool:
        del self.tokens[length:]
        return True

    def clear(self) -> None:
        self.tokens = []

    def size_bytes(self, length: int) -> int:
        return length

    def dump(self, length: int) -> bytes:
        return bytes(self.tokens[:length])

    def load(self, state: bytes) -> int:
        self.tokens = list(state) if b"\xff" not in state else []
        return len(self.tokens)

    def close(self) -> None:
        pass


PREFIX = list(range(1, 41))
OTHER = [100, *range(2, 60)]


def test_a_prefix_is_read_once_and_reused() -> None:
    cells = FakeCells()
    sequence = ReadSequence(cells)
    assert sequence.read([*PREFIX, 50], len(PREFIX)) == 0
    assert sequence.read([*PREFIX, 51], len(PREFIX)) == len(PREFIX)
    assert cells.tokens == [*PREFIX, 51]


def test_a_prefix_is_reused_from_the_cache_after_another_conversation() -> None:
    cells = FakeCells()
    sequence = ReadSequence(cells)
    sequence.read([*PREFIX, 50], len(PREFIX))
    sequence.read(OTHER)
    assert sequence.read([*PREFIX, 51], len(PREFIX)) == len(PREFIX)
    assert cells.tokens == [*PREFIX, 51]


def test_after_a_broken_state_everything_is_read_and_nothing_counts_as_reused() -> None:
    cells = FakeCells()
    sequence = ReadSequence(cells)
    broken = [*PREFIX[:20], 255, *PREFIX[20:]]
    sequence.read([*broken, 50], len(broken))
    sequence.read([*broken[:20], 7], 20)
    cells.evaluated.clear()
    assert sequence.read([*broken, 51], len(broken)) == 0
    assert cells.evaluated == [*broken, 51]
    assert cells.tokens == [*broken, 51]


def test_a_broken_state_is_not_restored() -> None:
    sequence = ReadSequence(FakeCells())
    assert not sequence.restore([1, 2, 3], b"\xff")
    assert sequence.restore([1, 2, 3], bytes([1, 2, 3]))
    assert len(sequence) == 3
