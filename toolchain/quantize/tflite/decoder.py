"""A decoder of a known family as TFLite signatures in litert-torch's contract, over one cache.

The signatures are `prefill_<n>` and `decode`. Inputs are `tokens` [1,T], `input_pos` [T], `mask`
[1,1,T,S] (added to the scores) and `kv_cache_{k,v}_<layer>` [1,heads,S,width]. Outputs are the
caches, and `logits` [1,1,V] of `decode`. Families (`models/families`) compute as in Hugging Face.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolchain.models.names import EMBEDDING, HEAD
from toolchain.quantize.decoders import Source
from toolchain.quantize.matrices import I32
from toolchain.quantize.rope import Rotation, tables
from toolchain.quantize.tflite.blueprint import Blueprint
from toolchain.quantize.tflite.graph import Graph, Value
from toolchain.quantize.tflite.schemes import Scheme, linear, look_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OUT_OF_SIGHT = -1e9
"""Added to the score of a key outside of a window, once for each step beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder(Source):
    """A checkpoint and the way it is stored."""

    scheme: Scheme

    def __post_init__(self) -> None:
        """Raise ArtifactError for a family that has no graph here."""
        self.refuse_unknown("TFLite")

    def blueprint(self, prefill: tuple[int, ...]) -> Blueprint:
        """Return the model with `decode` first.

        Only the first graph's tensors are visible in place in all runtimes.
        """
        blueprint = Blueprint()
        for tokens in (1, *sorted(prefill)):
            _Signature(self, blueprint, tokens).build()
        return blueprint


class _Signature:
    """One graph of `tokens` tokens at a time; a graph of one token computes logits."""

    def __init__(self, decoder: Decoder, blueprint: Blueprint, tokens: int) -> None:
        self.decoder = decoder
        self.tokens = tokens
        self.sizes = decoder.model.sizes
        self.graph = Graph(blueprint, "decode" if tokens == 1 else f"prefill_{tokens}")
        self.places: dict[bool, tuple[Value, Value]] = {}
        self.masks: dict[bool, Value] = {}

    def build(self) -> None:
        """Write the graph."""
        graph = self.graph
        sizes = self.sizes
        tokens = graph.reshape(graph.input("tokens", (1, self.tokens), I32), self.tokens)
        self.position = graph.input("input_pos", (self.tokens,), I32)
        self.mask = graph.input("mask", (1, 1, self.tokens, self.decoder.context))
        shape = (1, sizes["kv_heads"], self.decoder.context, sizes["head_dim"])
        self.caches = {
            (part, layer): graph.input(f"kv_cache_{part}_{layer}", shape)
            for layer in range(sizes["layers"])
            for part in "kv"
        }
        none = graph.numbers(0)
        first = graph.slice(self.position, 0, 0, 1)
        self.start = graph.concat([none, none, first, none], 0)
        self._finish(self._layers(self._embed(tokens)))

    def _embed(self, tokens: Value) -> Value:
        import numpy as np

        embedded = look_up(
            self.graph, tokens, self.decoder.scheme.head, self.decoder.matrix(EMBEDDING)
        )
        if self.decoder.model.family.name != "gemma3":
            return embedded
        return self.graph.mul(
            embedded, self.graph.scalar(float(np.sqrt(np.float32(self.sizes["hidden"]))))
        )

    def _layers(self, value: Value) -> Value:
        last = self.sizes["layers"] - 1
        for layer in range(last + 1):
            attended = self._attention(
                self._norm(value, f"model.layers.{layer}.input_layernorm"), layer
            )
            if attended is None:
                break
            value = self._feed_forward(
                self.graph.add(value, self._after(attended, layer, "post_attention")), layer
            )
        return value

    def _after(self, value: Value, layer: int, place: str) -> Value:
        """Return a module's output, normalized after it if the family does so (Gemma)."""
        if not self.decoder.model.family.norm_offset:
            return value
        return self._norm(value, f"model.layers.{layer}.{place}_layernorm")

    def _feed_forward(self, value: Value, layer: int) -> Value:
        graph = self.graph
        name = f"model.layers.{layer}"
        before = "pre_feedforward" if self.decoder.model.family.norm_offset else "post_attention"
        normed = self._norm(value, f"{name}.{before}_layernorm")
        inner = self.sizes["intermediate"]
        fused = "mlp.gate_up_proj" in self.decoder.model.family.modules
        both = self._linear(
            normed,
            *(
                [f"{name}.mlp.gate_up_proj"]
                if fused
                else [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"]
            ),
        )
        gate, up = graph.slice(both, 1, 0, inner), graph.slice(both, 1, inner, inner)
        active = (
            graph.gelu(gate)
            if self.decoder.model.family.activation.startswith("gelu")
            else graph.silu(gate)
        )
        down = self._linear(graph.mul(active, up), f"{name}.mlp.down_proj")

        return graph.add(value, self._after(down, layer, "post_feedforward"))

    def _finish(self, value: Value) -> None:
        outputs = {
            f"kv_cache_{part}_{layer}": cache for (part, layer), cache in self.caches.items()
        }
        if self.tokens == 1:
            outputs["logits"] = self._logits(self._norm(value, "model.norm"))
        self.graph.finish(outputs)

    def _logits(self, value: Value) -> Value:
        graph = self.graph
        decoder = self.decoder
        matrix = decoder.matrix(EMBEDDING if decoder.model.tied else HEAD)
        scores = linear(graph, value, decoder.scheme.head, matrix, None)
        if cap := decoder.config.get("final_logit_softcapping"):
            scores = graph.mul(
                graph.tanh(graph.mul(scores, graph.scalar(1.0 / cap))), graph.scalar(cap)
            )
        return graph.reshape(scores, 1, 1, self.sizes["vocab"])

    # Attention

    def _attention(self, value: Value, layer: int) -> Value | None:
        """Return a layer's attention output; None if only its keys and values are needed."""
        graph = self.graph
        sizes = self.sizes
        name = f"model.layers.{layer}.self_attn"
        width = sizes["head_dim"]
        heads = sizes["heads"]
        shared = sizes["kv_heads"]
        fused = "self_attn.qkv_proj" in self.decoder.model.family.modules
        all_three = self._linear(
            value, *([f"{name}.qkv_proj"] if fused else [f"{name}.{part}_proj" for part in "qkv"])
        )
        sliding = self.decoder.slides(layer)
        query = self._rotated(self._heads(all_three, 0, heads, f"{name}.q_norm"), sliding)
        key = self._rotated(self._heads(all_three, heads, shared, f"{name}.k_norm"), sliding)
        worth = self._heads(all_three, heads + shared, shared)

        for part, rows in (("k", key), ("v", worth)):
            self.caches[part, layer] = graph.put(
                self.caches[part, layer], self._by_head(rows), self.start
            )

        if self.tokens > 1 and layer == sizes["layers"] - 1:
            return None

        scaled = graph.mul(query, graph.scalar(self._scale()))
        scores = graph.matmul(self._grouped(scaled), self.caches["k", layer], transposed=True)
        attended = graph.matmul(
            graph.softmax(self._masked(scores, sliding)), self.caches["v", layer]
        )

        return self._linear(self._ungrouped(attended, heads * width), f"{name}.o_proj")

    def _scale(self) -> float:
        scalar = (
            self.decoder.config.get("query_pre_attn_scalar")
            if self.decoder.model.family.scaled_by_hidden
            else None
        )
        return float((scalar or self.sizes["head_dim"]) ** -0.5)

    def _heads(self, value: Value, first: int, count: int, norm: str = "") -> Value:
        """Return `count` heads as (tokens, heads, width), normalized if the family does so."""
        width = self.sizes["head_dim"]
        part = self.graph.reshape(
            self.graph.slice(value, 1, first * width, count * width), self.tokens, count, width
        )
        return (
            self._norm(part, norm)
            if norm.partition("self_attn.")[2] in self._norms_of_heads()
            else part
        )

    def _norms_of_heads(self) -> set[str]:
        return {
            module.removeprefix("self_attn.")
            for module in self.decoder.model.family.modules
            if module.endswith("_norm")
        }

    def _by_head(self, value: Value) -> Value:
        """Turn (tokens, heads, width) into (1, heads, tokens, width)."""
        graph = self.graph
        (tokens, heads, width) = value.shape
        if tokens == 1:
            return graph.reshape(value, 1, heads, 1, width)
        return graph.transpose(graph.reshape(value, 1, tokens, heads, width), 0, 2, 1, 3)

    def _grouped(self, query: Value) -> Value:
        """Turn (tokens, heads, width) into (1, key heads, query heads of each × tokens, width)."""
        graph = self.graph
        (tokens, heads, width) = query.shape
        shared = self.sizes["kv_heads"]
        if tokens > 1:
            query = graph.transpose(
                graph.reshape(query, tokens, shared, heads // shared, width), 1, 2, 0, 3
            )
        return graph.reshape(query, 1, shared, heads // shared * tokens, width)

    def _ungrouped(self, value: Value, width: int) -> Value:
        graph = self.graph
        shared = self.sizes["kv_heads"]
        tokens = self.tokens
        if tokens > 1:
            apart = graph.reshape(
                value, shared, self.sizes["heads"] // shared, tokens, self.sizes["head_dim"]
            )
            value = graph.transpose(apart, 2, 0, 1, 3)
        return graph.reshape(value, tokens, width)

    def _masked(self, scores: Value, sliding: bool) -> Value:
        graph = self.graph
        shared = self.sizes["kv_heads"]
        tokens = self.tokens
        mask = self._mask(sliding)
        if tokens == 1:
            return graph.add(scores, mask)
        apart = graph.reshape(
            scores, shared, self.sizes["heads"] // shared, tokens, self.decoder.context
        )
        return graph.reshape(graph.add(apart, mask), *scores.shape)

    def _mask(self, sliding: bool) -> Value:
        """Return the mask; layers with a window also hide keys at least a window away."""
        import numpy as np

        window = int(self.decoder.config.get("sliding_window") or 0)
        if not sliding or window >= self.decoder.context:
            return self.mask

        if sliding not in self.masks:
            graph = self.graph
            tokens = self.tokens
            here = graph.reshape(graph.real(self.position), 1, 1, tokens, 1)
            keys = graph.constant(
                np.arange(self.decoder.context, dtype=np.float32).reshape(1, 1, 1, -1)
            )
            beyond = graph.relu(graph.sub(graph.sub(here, keys), graph.scalar(window - 1)))
            self.masks[sliding] = graph.add(
                self.mask, graph.mul(beyond, graph.scalar(OUT_OF_SIGHT))
            )

        return self.masks[sliding]

    def _rotated(self, value: Value, sliding: bool) -> Value:
        """Return heads with their rotary part turned by position (`apply_rotary_pos_emb`)."""
        cos, sin = self._place(sliding and self.decoder.model.family.name == "gemma3")
        graph = self.graph
        width = cos.shape[-1]
        turned = graph.slice(value, 2, 0, width)
        half = width // 2
        swapped = graph.concat(
            [graph.slice(turned, 2, half, half), graph.slice(turned, 2, 0, half)], 2
        )
        rotated = graph.add(graph.mul(turned, cos), graph.mul(swapped, sin))
        rest = value.shape[-1] - width
        return graph.concat([rotated, graph.slice(value, 2, width, rest)], 2) if rest else rotated

    def _place(self, local: bool) -> tuple[Value, Value]:
        if local not in self.places:
            rotation = self._tables(local)
            self.places[local] = (self._at_position(rotation.cos), self._at_position(rotation.sin))
        return self.places[local]

    def _tables(self, local: bool) -> Rotation:
        return tables(self.decoder.model, self.decoder.context, local=local)

    def _at_position(self, table: "NDArray[np.float32]") -> Value:
        rows = self.graph.gather(self.graph.constant(table), self.position)
        return self.graph.reshape(rows, self.tokens, 1, table.shape[1])

    # Layers' parts

    def _norm(self, value: Value, name: str) -> Value:
        """Return the value divided by its root mean square, times weights (arXiv:1910.07467)."""
        graph = self.graph
        config = self.decoder.config
        mean = graph.mean(graph.mul(value, value), len(value.shape) - 1)
        root = graph.rsqrt(graph.add(mean, graph.scalar(config["rms_norm_eps"])))
        return graph.mul(
            graph.mul(value, root), graph.constant(self.decoder.vector(f"{name}.weight"))
        )

    def _linear(self, value: Value, *modules: str) -> Value:
        """Return the outputs of linear modules of one value, one after the other.

        They are computed by one multiplication.
        """
        decoder = self.decoder
        biases = [
            f"{module}.bias" for module in modules if f"{module}.bias" in decoder.weights.tensors
        ]
        bias = decoder.vector(*biases) if biases else None
        return linear(
            self.graph,
            value,
            decoder.scheme.layers,
            decoder.matrix(*(f"{m}.weight" for m in modules)),
            bias,
        )
