"""Block influence: how much each layer changes what it reads, and which layers a student keeps.

Source: Men et al., ShortGPT, arXiv:2403.03853, section 3: 1 - cosine of a layer's input and output.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from toolchain.errors import ConfigError
from toolchain.training.examples import Example, batch_of

ROWS = 16
"""Conversations on which the influence is measured."""
BATCH = 8


def influences(model: Any, examples: Sequence[Example]) -> list[float]:
    """Return the influence of each layer, the mean over all tokens of a few examples."""
    import torch

    rows = evenly(len(examples), min(ROWS, len(examples)))
    sums = torch.zeros(len(layers_of(model)), dtype=torch.float64)
    count = 0
    for first in range(0, len(rows), BATCH):
        some = [examples[row] for row in rows[first : first + BATCH]]
        batch = batch_of(some, range(len(some))).to(model.device)
        lengths = torch.tensor([len(each.ids) for each in some], device=model.device)
        is_token = torch.arange(batch.ids.shape[1], device=model.device) < lengths[:, None]
        with states_of_layers(model) as states, torch.inference_mode():
            model.base_model(input_ids=batch.ids, use_cache=False)

        for layer, (before, after) in enumerate(states):
            cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[layer] += float((1 - cosine)[is_token].double().sum())
        count += int(is_token.sum())

    return [round(each, 6) for each in (sums / max(count, 1)).tolist()]


def layers_of(model: Any) -> Any:
    """Return the decoder's layers."""
    return model.base_model.layers


@contextmanager
def states_of_layers(model: Any) -> "Iterator[list[tuple[Any, Any]]]":
    """Yield a list that a forward pass fills with the input and the output of each layer."""
    states: list[tuple[Any, Any]] = []

    def note(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        states.append((before, output[0] if isinstance(output, tuple) else output))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers_of(model)]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def choose(influence: Sequence[float], count: int, kinds: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the `count` layers of the largest influence, first and last always among them.

    `kinds` are the kinds of the layers, where a family has several (full and sliding attention):
    the layers are chosen so that kinds follow each other in the student as in the teacher. Raises
    ConfigError if that cannot be.
    """
    total = len(influence)
    if not 2 <= count <= total:
        raise ConfigError(
            f"distill: layers: `{count}` layers cannot be kept",
            hint=f"the teacher has {total}; first and last are never dropped",
        )
    kinds = kinds or ("",) * total
    # best[layer] is the largest sum of so many layers of which `layer` is the last, with its path.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (influence[0], (0,))}
    for place in range(1, count):
        extended = {}
        for layer in range(place, total):
            paths = [path for last, path in best.items() if last < layer]
            if paths and kinds[layer] == kinds[place]:
                summed, path = max(paths)
                extended[layer] = (summed + influence[layer], (*path, layer))
        best = extended

    if total - 1 not in best:
        raise ConfigError(
            f"distill: layers: no {count} layers alternate in kind as the teacher's do",
            hint="take one more or one fewer, or name them in a list",
        )
    return best[total - 1][1]


def kinds_of(config: Any) -> tuple[str, ...]:
    """Return the kind of each layer, empty where a configuration knows none."""
    lists = [getattr(config, name, None) or () for name in ("layer_types", "no_rope_layers")]
    whole = [each for each in lists if len(each) == config.num_hidden_layers]
    return tuple(" ".join(map(str, kinds)) for kinds in zip(*whole, strict=True))


def evenly(total: int, count: int) -> list[int]:
    """Return `count` numbers below `total` at even distances, first and last among them."""
    if count < 2:
        return list(range(total))[:count]
    return [round(place * (total - 1) / (count - 1)) for place in range(count)]
