"""A decoder of a known family as an ONNX graph in onnxruntime-genai's contract.

Inputs are `input_ids` [batch, sequence], `attention_mask` [batch, total] and
`past_key_values.<layer>.{key,value}` [batch, heads, past, width]. Outputs are `logits` and
`present.<layer>.{key,value}`. One input more has a default, so that its callers need not know it:
`first_logits` is the first position of the sequence whose logits are computed; -1 is the last.
Families (`models/families`) compute as in Hugging Face.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.models.names import EMBEDDING, HEAD
from toolchain.quantize.decoders import Source
from toolchain.quantize.onnx.blueprint import MICROSOFT, NONE, Blueprint, Value
from toolchain.quantize.onnx.schemes import Scheme, linear, look_up
from toolchain.quantize.rope import tables

if TYPE_CHECKING:
    pass

FIRST_LOGITS = "first_logits"
ROTARY_STEP = 16
"""Number that the rotary width of a head must be a multiple of (group_query_attention_helper.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder(Source):
    """A checkpoint and the way it is stored."""

    scheme: Scheme

    def __post_init__(self) -> None:
        """Raise ArtifactError for a family that has no graph here."""
        self.refuse_unknown("ONNX")
        width = tables(self.model, 1).cos.shape[1]
        if width % ROTARY_STEP:
            raise ArtifactError(
                f"config.json: ONNX Runtime turns heads in steps of {ROTARY_STEP}, "
                f"not `{width}` of their numbers",
                hint="use GGUF",
            )

    def blueprint(self, data_name: str) -> Blueprint:
        """Return the graph whose weights lie in the file `data_name`."""
        blueprint = Blueprint(data_name)
        _Graph(self, blueprint).build()
        return blueprint


class _Graph:
    """The nodes of one decoder."""

    def __init__(self, decoder: Decoder, blueprint: Blueprint) -> None:
        self.decoder = decoder
        self.family = decoder.model.family
        self.sizes = decoder.model.sizes
        self.graph = blueprint

    def build(self) -> None:
        """Write the graph."""
        graph = self.graph
        self.tokens = graph.input("input_ids", "INT64", ("batch", "sequence"))
        mask = graph.input("attention_mask", "INT64", ("batch", "total"))
        self.lengths = self._lengths(mask)
        value = self._embedded()
        skip = NONE

        for layer in range(self.sizes["layers"]):
            name = f"model.layers.{layer}"
            normed, value = self._added_norm(value, skip, f"{name}.input_layernorm")
            attended = self._after(self._attention(normed, layer), layer, "post_attention")
            before = "pre_feedforward" if self.family.norm_offset else "post_attention"
            normed, value = self._added_norm(value, attended, f"{name}.{before}_layernorm")
            skip = self._after(self._feed_forward(normed, name), layer, "post_feedforward")

        self._logits(*self._chosen(value, skip))

    def _lengths(self, mask: Value) -> tuple[Value, Value]:
        """Return the last position of each sequence, and the tokens of the longest one."""
        graph = self.graph
        one = self._number("one", 1)
        present = graph.node("ReduceSum", [mask, one], {"keepdims": 0})
        last = graph.node("Cast", [graph.node("Sub", [present, one])], {"to": 6})
        shape = graph.node("Shape", [mask])
        total = graph.node("Gather", [shape, self._number("place", 1, scalar=True)])
        return last, graph.node("Cast", [total], {"to": 6})

    def _number(self, name: str, value: int, *, scalar: bool = False) -> Value:
        import numpy as np

        return self.graph.constant(name, np.array(value if scalar else [value], np.int64))

    def _scalar(self, name: str, value: float) -> Value:
        import numpy as np

        return self.graph.constant(name, np.array(value, np.float32))

    def _embedded(self) -> Value:
        import numpy as np

        decoder = self.decoder
        embedded = look_up(self.graph, self.tokens, decoder.scheme.type, decoder.matrix(EMBEDDING))
        if self.family.name != "gemma3":
            return embedded
        factor = float(np.sqrt(np.float32(self.sizes["hidden"])))
        return self.graph.node("Mul", [embedded, self._scalar("embedding_factor", factor)])

    def _chosen(self, value: Value, skip: Value) -> tuple[Value, Value]:
        """Return the last layer's value and what is added to it, from `first_logits` on."""
        import numpy as np

        # An initializer that is an input too is a default (IR version 4): a caller that does not
        # know it, such as onnxruntime-genai, gets the logits of all tokens.
        graph = self.graph
        graph.input(FIRST_LOGITS, "INT64", (1,))
        first = self._number(FIRST_LOGITS, 0)
        end = self._number("end", np.iinfo(np.int64).max)
        axis = self._number("sequence_axis", 1)
        kept = [graph.node("Slice", [each, first, end, axis]) for each in (value, skip)]
        return kept[0], kept[1]

    def _logits(self, value: Value, skip: Value) -> None:
        graph = self.graph
        decoder = self.decoder
        normed, _ = self._added_norm(value, skip, "model.norm")
        matrix = decoder.matrix(EMBEDDING if decoder.model.tied else HEAD)
        scores = linear(graph, normed, decoder.scheme.type, matrix)
        if cap := decoder.config.get("final_logit_softcapping"):
            bound = self._scalar("logit_cap", cap)
            scores = graph.node(
                "Mul", [graph.node("Tanh", [graph.node("Div", [scores, bound])]), bound]
            )

        output = graph.output("logits", ("batch", "scored", self.sizes["vocab"]))
        graph.node("Identity", [scores], outputs=[output])

    # Attention

    def _attention(self, value: Value, layer: int) -> Value:
        name = f"model.layers.{layer}.self_attn"
        past, present = self._caches(layer)
        sliding = self.decoder.slides(layer)
        window = int(self.decoder.config.get("sliding_window") or 0) if sliding else -1
        attended = self.graph.node(
            "GroupQueryAttention",
            [
                *self._query_key_value(value, name),
                *past,
                *self.lengths,
                *self._angles(local=sliding and self.family.name == "gemma3"),
            ],
            {
                "do_rotary": 1,
                "kv_num_heads": self.sizes["kv_heads"],
                "local_window_size": window,
                "num_heads": self.sizes["heads"],
                "rotary_interleaved": 0,
                "scale": self._scale(),
            },
            domain=MICROSOFT,
            outputs=[Value(f"{name}.attended"), *present],
        )
        return self._linear(attended, f"{name}.o_proj")

    def _caches(self, layer: int) -> tuple[list[Value], list[Value]]:
        heads, width = self.sizes["kv_heads"], self.sizes["head_dim"]
        past = [
            self.graph.input(
                f"past_key_values.{layer}.{part}", "FLOAT", ("batch", heads, "past", width)
            )
            for part in ("key", "value")
        ]
        present = [
            self.graph.output(f"present.{layer}.{part}", ("batch", heads, "present", width))
            for part in ("key", "value")
        ]
        return past, present

    def _query_key_value(self, value: Value, name: str) -> list[Value]:
        """Return the three inputs of attention; the first has all three if none is normalized."""
        if "self_attn.qkv_proj" in self.family.modules:
            return [self._linear(value, f"{name}.qkv_proj"), NONE, NONE]
        if "self_attn.q_norm" not in self.family.modules:
            fused = self._linear(value, *(f"{name}.{part}_proj" for part in "qkv"))
            return [fused, NONE, NONE]

        query, key, worth = (self._linear(value, f"{name}.{part}_proj") for part in "qkv")
        return [
            self._normed_heads(query, self.sizes["heads"], f"{name}.q_norm"),
            self._normed_heads(key, self.sizes["kv_heads"], f"{name}.k_norm"),
            worth,
        ]

    def _normed_heads(self, value: Value, heads: int, norm: str) -> Value:
        import numpy as np

        graph = self.graph
        width = self.sizes["head_dim"]
        apart = graph.constant("apart", np.array([0, -1, width], np.int64))
        together = graph.constant(f"together_{heads}", np.array([0, -1, heads * width], np.int64))
        normed = self._norm(graph.node("Reshape", [value, apart]), norm)
        return graph.node("Reshape", [normed, together])

    def _angles(self, *, local: bool) -> tuple[Value, Value]:
        """Return cosine and sine of half a head's pairs at every position."""
        rotation = tables(self.decoder.model, self.decoder.context, local=local)
        half = rotation.cos.shape[1] // 2
        suffix = "_local" if local else ""
        cos = self.graph.whole(f"cos_cache{suffix}", rotation.cos[:, half:])
        # The table's first half has the sign of the rotation, the second one the sine itself.
        sin = self.graph.whole(f"sin_cache{suffix}", rotation.sin[:, half:])
        return cos, sin

    def _scale(self) -> float:
        scalar = (
            self.decoder.config.get("query_pre_attn_scalar")
            if self.family.scaled_by_hidden
            else None
        )
        return float((scalar or self.sizes["head_dim"]) ** -0.5)

    # Layers' parts

    def _feed_forward(self, value: Value, name: str) -> Value:
        graph = self.graph
        if "mlp.gate_up_proj" in self.family.modules:
            both = self._linear(value, f"{name}.mlp.gate_up_proj")
            gate, up = Value(f"{name}.gate"), Value(f"{name}.up")
            graph.node("Split", [both], {"axis": -1, "num_outputs": 2}, outputs=[gate, up])
        else:
            gate = self._linear(value, f"{name}.mlp.gate_proj")
            up = self._linear(value, f"{name}.mlp.up_proj")

        if self.family.activation.startswith("gelu"):
            active = graph.node("Gelu", [gate], {"approximate": "tanh"})
        else:
            active = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])

        return self._linear(graph.node("Mul", [active, up]), f"{name}.mlp.down_proj")

    def _after(self, value: Value, layer: int, place: str) -> Value:
        """Return a module's output, normalized after it if the family does so (Gemma)."""
        if not self.family.norm_offset:
            return value
        return self._norm(value, f"model.layers.{layer}.{place}_layernorm")

    def _added_norm(self, value: Value, skip: Value, name: str) -> tuple[Value, Value]:
        """Return the norm of value + skip, and the sum."""
        if skip == NONE:
            return self._norm(value, name), value

        normed, total = Value(f"{name}.normed"), Value(f"{name}.sum")
        self.graph.node(
            "SkipSimplifiedLayerNormalization",
            [value, skip, self._vector(f"{name}.weight")],
            {"epsilon": self.decoder.config["rms_norm_eps"]},
            domain=MICROSOFT,
            outputs=[normed, NONE, NONE, total],
        )
        return normed, total

    def _norm(self, value: Value, name: str) -> Value:
        """Return the value divided by its root mean square, times weights (arXiv:1910.07467)."""
        return self.graph.node(
            "SimplifiedLayerNormalization",
            [value, self._vector(f"{name}.weight")],
            {"axis": -1, "epsilon": self.decoder.config["rms_norm_eps"], "stash_type": 1},
        )

    def _vector(self, *origins: str) -> Value:
        first, *others = origins
        name = first + (f"+{len(others)}" if others else "")
        return self.graph.whole(name, self.decoder.vector(*origins))

    def _linear(self, value: Value, *modules: str) -> Value:
        """Return the outputs of linear modules of one value, one after the other.

        They are computed by one multiplication.
        """
        decoder = self.decoder
        matrix = decoder.matrix(*(f"{module}.weight" for module in modules))
        product = linear(self.graph, value, decoder.scheme.type, matrix)
        biases = [
            f"{module}.bias" for module in modules if f"{module}.bias" in decoder.weights.tensors
        ]
        return self.graph.node("Add", [product, self._vector(*biases)]) if biases else product
