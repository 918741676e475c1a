"""Students: a ready model, or a shallow copy of the teacher with some of its layers."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from toolchain.errors import ConfigError

_LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


def from_layers(teacher: Any, layers: Sequence[int]) -> Any:
    """Return a float32 model with the given layers of the teacher and all its other weights."""

    config = copy.deepcopy(teacher.config)
    count = config.num_hidden_layers
    if wrong := [layer for layer in layers if not 0 <= layer < count]:
        raise ConfigError(
            f"distill: layers: `{wrong[0]}` is not a layer of the teacher",
            hint=f"it has layers 0 to {count - 1}",
        )

    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[layer] for layer in layers])

    config.num_hidden_layers = len(layers)
    student = type(teacher)(config).float()
    weights = teacher.state_dict()
    student.load_state_dict(
        {
            name: weights[_LAYER.sub(lambda layer: str(layers[int(layer[0])]), name)]
            for name in student.state_dict()
        }
    )

    return student
