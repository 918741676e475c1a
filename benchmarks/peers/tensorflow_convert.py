"""Peer: the same Qwen 2 as a TensorFlow graph, by TensorFlow's converter; needs tensorflow.

python tensorflow_convert.py MODEL OUT PREFILL CONTEXT

Writes OUT/model.tflite with the signatures `prefill_<n>` and `decode`.

All that is known to make such a graph fast is in it: one operator updates the cache, projections
that read the same value are one multiplication, a prompt ends at the keys and values of the last
layer, and nothing is sliced by strides.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import tensorflow as tf
from safetensors.tensorflow import load_file
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_dynamic_update_slice

Caches = dict[str, Any]


class Decoder(tf.Module):
    """A checkpoint's weights as variables, and the computation on them."""

    def __init__(self, folder: Path, context: int) -> None:
        """Read a checkpoint."""
        super().__init__()
        self.config = json.loads((folder / "config.json").read_text())
        self.heads = self.config["num_attention_heads"]
        self.shared = self.config["num_key_value_heads"]
        self.width = self.config["hidden_size"] // self.heads
        self.context = context
        self.layers = self.config["num_hidden_layers"]
        found = load_file(folder / "model.safetensors")

        for names, fused in (
            (("q_proj", "k_proj", "v_proj"), "qkv"),
            (("gate_proj", "up_proj"), "gate_up"),
        ):
            for first in [name for name in found if name.split(".")[-2:-1] == [names[0]]]:
                parts = [found.pop(first.replace(names[0], name)) for name in names]
                found[first.replace(names[0], fused)] = tf.concat(parts, 0)

        self.stored = {
            name: tf.Variable(tf.cast(tensor, tf.float32), trainable=False)
            for name, tensor in found.items()
        }
        frequencies = self.config["rope_theta"] ** -(
            tf.range(0, self.width, 2, tf.float32) / self.width
        )
        angles = tf.range(context, dtype=tf.float32)[:, None] * tf.tile(frequencies, [2])
        sign = tf.repeat([-1.0, 1.0], self.width // 2)
        self.cos = tf.Variable(tf.cos(angles), trainable=False)
        self.sin = tf.Variable(tf.sin(angles) * sign, trainable=False)

    def signature(self, count: int, *, answers: bool) -> Any:
        """Return the traced function for `count` tokens at a time."""
        shape = (1, self.shared, self.context, self.width)
        caches = {
            f"kv_cache_{part}_{layer}": tf.TensorSpec(shape, tf.float32)
            for layer in range(self.layers)
            for part in "kv"
        }

        @tf.function
        def step(tokens: Any, input_pos: Any, mask: Any, **caches: Any) -> Caches:
            value = self._run(
                tf.gather(self.stored["model.embed_tokens.weight"], tf.reshape(tokens, (count,))),
                input_pos,
                mask,
                caches,
                answers=answers,
            )
            return caches | ({"logits": self._logits(value)} if answers else {})

        return step.get_concrete_function(
            tokens=tf.TensorSpec((1, count), tf.int32),
            input_pos=tf.TensorSpec((count,), tf.int32),
            mask=tf.TensorSpec((1, 1, count, self.context), tf.float32),
            **caches,
        )

    def _run(self, value: Any, position: Any, mask: Any, caches: Caches, *, answers: bool) -> Any:
        cos, sin = (tf.expand_dims(tf.gather(table, position), 1) for table in (self.cos, self.sin))
        start = tf.concat([[0, 0], tf.slice(position, [0], [1]), [0]], 0)
        for layer in range(self.layers):
            query = self._cached(
                self._norm(value, f"model.layers.{layer}.input_layernorm"),
                layer,
                (cos, sin),
                start,
                caches,
            )
            if layer == self.layers - 1 and not answers:
                break
            value += self._attended(query, mask, layer, caches)
            value += self._feed_forward(
                self._norm(value, f"model.layers.{layer}.post_attention_layernorm"), layer
            )

        return value

    def _cached(
        self, value: Any, layer: int, place: tuple[Any, Any], start: Any, caches: Caches
    ) -> Any:
        """Return the queries of a layer, and put its keys and values into the caches."""
        joined = tf.reshape(
            self._linear(value, f"model.layers.{layer}.self_attn.qkv"),
            (-1, self.heads + 2 * self.shared, self.width),
        )
        query, key, worth = tf.split(joined, [self.heads, self.shared, self.shared], 1)
        for name, rows in (
            (f"kv_cache_k_{layer}", self._turned(key, place)),
            (f"kv_cache_v_{layer}", worth),
        ):
            caches[name] = xla_dynamic_update_slice(
                caches[name], tf.expand_dims(tf.transpose(rows, (1, 0, 2)), 0), start
            )

        return self._turned(query, place)

    def _attended(self, query: Any, mask: Any, layer: int, caches: Caches) -> Any:
        count = query.shape[0]
        group = self.heads // self.shared
        by_key = (
            tf.transpose(tf.reshape(query, (count, self.shared, group, self.width)), (1, 2, 0, 3))
            * self.width**-0.5
        )
        by_key = tf.reshape(by_key, (1, self.shared, group * count, self.width))
        scores = tf.matmul(by_key, caches[f"kv_cache_k_{layer}"], transpose_b=True)
        apart = tf.reshape(scores, (self.shared, group, count, self.context)) + mask
        weights = tf.reshape(tf.nn.softmax(apart), (1, self.shared, group * count, self.context))
        found = tf.reshape(
            tf.matmul(weights, caches[f"kv_cache_v_{layer}"]),
            (self.shared, group, count, self.width),
        )
        found = tf.reshape(tf.transpose(found, (2, 0, 1, 3)), (count, self.heads * self.width))
        return self._linear(found, f"model.layers.{layer}.self_attn.o_proj")

    def _feed_forward(self, value: Any, layer: int) -> Any:
        gate, up = tf.split(self._linear(value, f"model.layers.{layer}.mlp.gate_up"), 2, 1)
        return self._linear(gate * tf.sigmoid(gate) * up, f"model.layers.{layer}.mlp.down_proj")

    def _logits(self, value: Any) -> Any:
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        return tf.expand_dims(self._linear(self._norm(value, "model.norm"), head), 0)

    def _turned(self, value: Any, place: tuple[Any, Any]) -> Any:
        first, second = tf.split(value, 2, 2)
        return value * place[0] + tf.concat([second, first], 2) * place[1]

    def _norm(self, value: Any, name: str) -> Any:
        mean = tf.reduce_mean(value * value, -1, keepdims=True)
        return (
            value
            * tf.math.rsqrt(mean + self.config["rms_norm_eps"])
            * self.stored[f"{name}.weight"]
        )

    def _linear(self, value: Any, name: str) -> Any:
        product = tf.matmul(value, self.stored[f"{name}.weight"], transpose_b=True)
        return product + self.stored[f"{name}.bias"] if f"{name}.bias" in self.stored else product


def main() -> None:
    """Convert a checkpoint."""
    model, out, prefill, context = sys.argv[1:]
    decoder = Decoder(Path(model), int(context))
    lengths = {f"prefill_{prefill}": (int(prefill), False), "decode": (1, True)}
    signatures = {
        name: decoder.signature(count, answers=answers)
        for name, (count, answers) in lengths.items()
    }
    saved = Path(out) / "saved"
    tf.saved_model.save(decoder, str(saved), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved), signature_keys=list(signatures)
    )
    (Path(out) / "model.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
