"""Kinds of values that tables of a recipe share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from toolchain.terms import canonical

AUTO = "auto"
"""Value of `knowledge.answer` that leaves it to `evaluate` who words an answer."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Licence = Annotated[str, AfterValidator(canonical)]
"""SPDX expression, with ids as SPDX spells them; a model card's spelling is understood too."""
Words = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]
"""What travels in the ledger of a bundle."""
Personal = Literal["cn_id", "phone", "card", "plate", "address", "name", "email", "ip", "secret"]
"""Kinds of personal data that are looked for."""
Precision = Literal["auto", "float32", "bf16"]
"""Type that a training computes in; its weights are float32 either way."""
LINEAR = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
)
"""Linear layers of a decoder; the last two are what some families join others to."""
