"""Shapes that ONNX Runtime's own operators expect of their tensors.

Its kernels read codes, scales and angles by pointers: tensors that do not belong together must not
reach them. Standard library only, Python 3.10 up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from device.manifest.flatbuffer import BadFileError

BLOCK = 32
MAX_HEADS, MAX_WIDTH = 1 << 10, 1 << 12


class _Tensor(Protocol):
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class _Node(Protocol):
    @property
    def operator(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def attributes(self) -> "dict[str, int | float | str]": ...


def check_operators(nodes: "Sequence[_Node]", tensors: "Mapping[str, Any]") -> None:
    """Raise BadFileError for a node whose tensors do not have the shapes that it says."""
    for node in nodes:
        if node.operator in _CHECKS and not _CHECKS[node.operator](node, tensors):
            raise BadFileError(f"`{node.operator}` with tensors that do not belong together")


def _of_input(node: _Node, tensors: "Mapping[str, _Tensor]", place: int) -> "_Tensor | None":
    return tensors.get(node.inputs[place]) if len(node.inputs) > place else None


def _is(tensor: "_Tensor | None", kind: str, *shapes: tuple[int, ...]) -> bool:
    return tensor is not None and tensor.type == kind and tensor.shape in shapes


def _matmul(node: _Node, tensors: "Mapping[str, _Tensor]") -> bool:
    says = node.attributes
    rows, columns = says.get("N"), says.get("K")
    if says.get("bits") != 4 or says.get("block_size") != BLOCK or len(node.inputs) != 3:
        return False
    if not isinstance(rows, int) or not isinstance(columns, int) or columns % BLOCK:
        return False
    blocks = columns // BLOCK
    return (
        rows > 0
        and columns > 0
        and _is(_of_input(node, tensors, 1), "UINT8", (rows, blocks, BLOCK // 2))
        and _is(_of_input(node, tensors, 2), "FLOAT", (rows * blocks,), (rows, blocks))
    )


def _gather(node: _Node, tensors: "Mapping[str, _Tensor]") -> bool:
    says = node.attributes
    codes = _of_input(node, tensors, 0)
    if (says.get("bits"), says.get("block_size")) != (4, BLOCK) or len(node.inputs) != 3:
        return False
    if (says.get("gather_axis"), says.get("quantize_axis")) != (0, 1):
        return False
    if not codes or codes.type != "UINT8" or len(codes.shape) != 2 or codes.shape[1] % 16:
        return False
    blocks = (codes.shape[0], codes.shape[1] * 2 // BLOCK)
    return all(blocks) and _is(_of_input(node, tensors, 2), "FLOAT", blocks)


def _attention(node: _Node, tensors: "Mapping[str, _Tensor]") -> bool:
    heads, shared = node.attributes.get("num_heads"), node.attributes.get("kv_num_heads")
    if not isinstance(heads, int) or not isinstance(shared, int) or len(node.inputs) != 9:
        return False
    if not 0 < shared <= heads <= MAX_HEADS or heads % shared:
        return False
    cos, sin = (_of_input(node, tensors, place) for place in (7, 8))
    return (
        cos is not None
        and len(cos.shape) == 2
        and 0 < cos.shape[1] <= MAX_WIDTH
        and cos.shape[1] % 8 == 0
        and cos.type == "FLOAT"
        and _is(sin, "FLOAT", cos.shape)
    )


_CHECKS = {
    "GatherBlockQuantized": _gather,
    "GroupQueryAttention": _attention,
    "MatMulNBits": _matmul,
}
"""Operator → whether its tensors have the shapes that it says."""
