"""Inputs and outputs of a decoder: onnxruntime-genai's contract, and one input of ours.

Our engine binds memory of its own to them, so their shapes must be exactly these. Standard library
only, Python 3.10 up.
"""

import re

from device.manifest.onnx import Header, Port

FIRST_LOGITS = "first_logits"
"""First position of the sequence whose logits are computed; it has a default."""
_PAST = re.compile(r"past_key_values\.(\d{1,4})\.(key|value)")
MAX_LAYERS = 1 << 10


def contract_fault(header: Header) -> str:
    """Return why a file is not a decoder in the contract; empty if it is one."""
    past = [name for name in header.inputs if _PAST.fullmatch(name)]
    layers = len(past) // 2
    names = {f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")}
    expected = {"input_ids", "attention_mask", FIRST_LOGITS}
    if not 0 < layers <= MAX_LAYERS:
        return "it has no keys and values of layers"
    if set(header.inputs) != expected | {f"past_key_values.{name}" for name in names}:
        return "its inputs are not `input_ids`, `attention_mask`, `first_logits` and `past_…`"
    if set(header.outputs) != {"logits"} | {f"present.{name}" for name in names}:
        return "its outputs are not `logits` and `present_…`"
    return _shape_fault(header)


def _shape_fault(header: Header) -> str:
    numbers = {name: header.inputs[name] for name in ("input_ids", "attention_mask")}
    if any(port.type != "INT64" or len(port.shape) != 2 for port in numbers.values()):
        return "its tokens and their mask are not [batch, length] of INT64"
    first = header.tensors.get(FIRST_LOGITS)
    if header.inputs[FIRST_LOGITS] != Port("INT64", (1,)) or not first or first.shape != (1,):
        return f"`{FIRST_LOGITS}` is not one INT64 with a default"

    key = header.inputs["past_key_values.0.key"]
    caches = [
        port
        for ports in (header.inputs, header.outputs)
        for name, port in ports.items()
        if name.startswith(("past_key_values.", "present."))
    ]
    if any(not _is_cache(port) or port.shape[1::2] != key.shape[1::2] for port in caches):
        return "its keys and values are not [batch, heads, length, width] of FLOAT, all alike"

    logits = header.outputs["logits"]
    size = logits.shape[-1] if logits.shape else 0
    if logits.type != "FLOAT" or len(logits.shape) != 3 or not isinstance(size, int) or size < 1:
        return "its logits are not [batch, length, vocabulary] of FLOAT"
    return "" if context_of(header) else "it has no angles of positions"


def _is_cache(port: Port) -> bool:
    sizes = port.shape[1::2]
    return (
        port.type == "FLOAT"
        and len(port.shape) == 4
        and all(isinstance(size, int) and size > 0 for size in sizes)
    )


def context_of(header: Header) -> int:
    """Return the tokens of context that a file has angles for; 0 if it has none."""
    tables = [
        header.tensors[node.inputs[7]].shape[0]
        for node in header.nodes
        if node.operator == "GroupQueryAttention"
    ]
    return min(tables, default=0)


def tables(header: Header) -> "set[tuple[int, int]]":
    """Return offset and size of codes, scales or rows that tokens are looked up in."""
    names = [
        name
        for node in header.nodes
        if node.operator in ("Gather", "GatherBlockQuantized")
        for name in (node.inputs[0], *node.inputs[2:])
    ]
    found = [header.tensors[name] for name in names if name in header.tensors]
    return {(each.offset, each.size) for each in found if each.offset is not None}


def looked_up(header: Header) -> int:
    """Return the bytes of an embedding that is not the head too: one row is read for a token."""
    uses: "dict[tuple[int, int], int]" = {}
    for node in header.nodes:
        for name in node.inputs:
            if (tensor := header.tensors.get(name)) and tensor.offset is not None:
                place = (tensor.offset, tensor.size)
                uses[place] = uses.get(place, 0) + 1

    return sum(place[1] for place in tables(header) if uses[place] == 1)
