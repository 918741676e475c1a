"""The check of ONNX files: what ours contain, and that a broken file gives no other error."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.manifest import ManifestError, protobuf, sha256_of
from device.manifest.onnx import MAX_GRAPH_BYTES, Header, read_header, tensor_digests
from device.manifest.onnx_contract import context_of, contract_fault, looked_up
from tests.fakes.models import tiny_llama
from tests.fakes.mutants import mutated
from tests.fakes.onnx_files import quantized_onnx

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("onnx")
    return quantized_onnx(tiny_llama(root / "model"), root / "out", "int4_b32").file


@pytest.fixture
def copied(file: Path, tmp_path: Path) -> Path:
    """A copy of the file with its data, to be broken."""
    for name in (file.name, f"{file.name}.data"):
        target = tmp_path / name.replace(file.name, "broken.onnx")
        target.write_bytes((file.parent / name).read_bytes())
    return tmp_path / "broken.onnx"


def changed(copied: Path, change: Callable[[Any], None]) -> Path:
    """Change the parsed model and write it back, with the name of its own data."""
    model = onnx.ModelProto.FromString(copied.read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "broken.onnx.data"
    change(model)
    copied.write_bytes(model.SerializeToString())
    return copied


def refused(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_header(path)
    assert caught.value.code == "bad_onnx"
    return str(caught.value)


def test_a_file_of_ours_says_what_it_is(file: Path) -> None:
    header = read_header(file)
    assert header.inputs["past_key_values.0.key"].shape == ("batch", 2, "past", 64)
    assert header.outputs["logits"].shape == ("batch", "scored", 512)
    assert header.note["scheme"] == "int4_b32"
    assert contract_fault(header) == ""
    assert context_of(header) == 128
    assert header.size == file.stat().st_size
    assert header.data_size == Path(f"{file}.data").stat().st_size


def test_each_tensor_of_the_data_is_digested_once_by_its_name(file: Path) -> None:
    digests = tensor_digests(file)
    by_name = {entry["name"]: entry for entry in digests}
    assert by_name["model.layers.0.self_attn.q_proj.weight+2"]["size"] == 512 * 256 // 2
    assert by_name["model.layers.1.mlp.down_proj.weight.scales"]["type"] == "FLOAT"
    assert len(by_name) == len(digests)


def test_an_untied_embedding_is_not_read_for_each_token(file: Path) -> None:
    assert looked_up(read_header(file)) == 512 * 256 * 5 // 8


def entry(model: Any, key: str, value: str) -> None:
    """Set an entry of the first external tensor's place."""
    tensor = next(each for each in model.graph.initializer if each.external_data)
    next(each for each in tensor.external_data if each.key == key).value = value


def attribute(model: Any, operator: str, name: str, value: int) -> None:
    node = next(each for each in model.graph.node if each.op_type == operator)
    next(each for each in node.attribute if each.name == name).i = value


def sub_graph(model: Any) -> None:
    held = model.graph.node[0].attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    held.g.name = "inner"


CASES: dict[str, tuple[Callable[[Any], None], str]] = {
    "another file": (
        lambda model: entry(model, "location", "/etc/passwd"),
        "its bytes are in `/etc/passwd`, not in `broken.onnx.data`",
    ),
    "a file above": (
        lambda model: entry(model, "location", "../broken.onnx.data"),
        "its bytes are in `../broken.onnx.data`",
    ),
    "behind the end": (lambda model: entry(model, "offset", "999999999999"), "the data ends at"),
    "a negative offset": (lambda model: entry(model, "offset", "-64"), "`-64` is no place"),
    "an offset in hex": (lambda model: entry(model, "offset", "0x40"), "`0x40` is no place"),
    "an overlap": (lambda model: entry(model, "offset", "8"), "overlap"),
    "a wrong length": (lambda model: entry(model, "length", "4"), "4 bytes, its shape needs"),
    "a huge shape": (
        lambda model: model.graph.initializer[0].dims.extend([1 << 40, 1 << 40]),
        "shape",
    ),
    "a type of text": (
        lambda model: setattr(model.graph.initializer[0], "data_type", 8),
        "type 8 is not known",
    ),
    "an operator": (
        lambda model: setattr(model.graph.node[0], "op_type", "Loop"),
        "computes with `Loop`, which no decoder of ours does",
    ),
    "an operator of another domain": (
        lambda model: setattr(model.graph.node[0], "domain", "evil"),
        "which no decoder of ours does",
    ),
    "a function": (
        lambda model: model.functions.add(name="f", domain="evil"),
        "has field 25, which no decoder of ours has",
    ),
    "a graph in a node": (sub_graph, "has field 6, which no decoder of ours has"),
    "a cycle": (
        lambda model: model.graph.node[0].input.append("logits"),
        "reads `logits`, which is not computed",
    ),
    "a name twice": (
        lambda model: model.graph.node[0].output.append(model.graph.node[1].output[0]),
        "is computed twice",
    ),
    "a missing output": (
        lambda model: model.graph.node.pop(),
        "its output `logits` is not computed",
    ),
    "other rows": (
        lambda model: attribute(model, "MatMulNBits", "N", 1 << 20),
        "`MatMulNBits` with tensors that do not belong together",
    ),
    "other bits": (
        lambda model: attribute(model, "MatMulNBits", "bits", 8),
        "`MatMulNBits` with tensors that do not belong together",
    ),
    "another axis": (
        lambda model: attribute(model, "GatherBlockQuantized", "quantize_axis", 0),
        "`GatherBlockQuantized` with tensors that do not belong together",
    ),
    "no heads": (
        lambda model: attribute(model, "GroupQueryAttention", "num_heads", 0),
        "`GroupQueryAttention` with tensors that do not belong together",
    ),
    "a newer version": (lambda model: setattr(model, "ir_version", 99), "IR version 99"),
    "newer operators": (
        lambda model: setattr(model.opset_import[0], "version", 99),
        "operators of `` 99 are not run",
    ),
    "a note that is no JSON": (
        lambda model: setattr(model.metadata_props[0], "value", "[" * 50_000),
        "is not JSON",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_said(copied: Path, case: str) -> None:
    change, message = CASES[case]
    said = refused(changed(copied, change))
    assert said.startswith("broken.onnx: ")
    assert message in said


def without(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        ports = model.graph.input
        ports.remove(next(port for port in ports if port.name == name))

    return change


CONTRACT: dict[str, tuple[Callable[[Any], None], str]] = {
    "more inputs": (
        lambda model: model.graph.input.add().CopyFrom(
            onnx.helper.make_tensor_value_info("more", 1, [1])
        ),
        "its inputs are not",
    ),
    "another vocabulary": (
        lambda model: setattr(
            model.graph.output[-1].type.tensor_type.shape.dim[2], "dim_param", "any"
        ),
        "its logits are not",
    ),
    "other heads": (
        lambda model: setattr(
            next(
                p for p in model.graph.input if p.name == "past_key_values.1.key"
            ).type.tensor_type.shape.dim[1],
            "dim_value",
            7,
        ),
        "its keys and values are not",
    ),
}


@pytest.mark.parametrize("case", CONTRACT)
def test_a_graph_that_is_no_decoder_is_found(copied: Path, case: str) -> None:
    change, message = CONTRACT[case]
    assert message in contract_fault(read_header(changed(copied, change)))


def test_data_that_is_missing_or_cut_or_longer_is_said(copied: Path) -> None:
    changed(copied, lambda model: None)
    data = Path(f"{copied}.data")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert "the data ends at" in refused(copied)
    data.write_bytes(whole + bytes(7))
    assert refused(copied) == "broken.onnx: 7 bytes of data more than its tensors take"
    data.unlink()
    assert refused(copied) == "broken.onnx: `broken.onnx.data` with its weights is missing"


def test_a_file_under_another_name_does_not_find_its_data(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(file.read_bytes())
    assert f"its bytes are in `{file.name}.data`" in refused(tmp_path / "other.onnx")


def test_what_is_no_onnx_file_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    assert refused(path) == "x.onnx: cannot be read: No such file or directory"
    path.write_bytes(b"")
    assert refused(path) == "x.onnx: not an ONNX file"
    with path.open("wb") as stream:
        stream.truncate(MAX_GRAPH_BYTES + 1)
    assert refused(path).startswith("x.onnx: a graph of 67,108,865 bytes")


def test_what_is_walked_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_ITEMS", 100)
    assert refused(file).endswith(": more than 100 fields")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_is_refused(copied: Path, share: float) -> None:
    changed(copied, lambda model: None)
    raw = copied.read_bytes()
    copied.write_bytes(raw[: int(len(raw) * share)])
    assert "broken.onnx: " in refused(copied)


def checked(path: Path) -> Header | None:
    """Return the header of a file that is harmless to read, None for one that is refused."""
    try:
        header = read_header(path)
        contract_fault(header)
        tensor_digests(path)
    except ManifestError as error:
        assert error.code == "bad_onnx"
        return None
    return header


def test_no_change_of_its_structure_gives_another_error(copied: Path) -> None:
    changed(copied, lambda model: None)
    raw, draw = copied.read_bytes(), random.Random(7)
    digest, caught = sha256_of(Path(f"{copied}.data")), 0
    for _ in range(200):
        copied.write_bytes(mutated(raw, draw))
        caught += checked(copied) is None
    assert caught > 100
    assert sha256_of(Path(f"{copied}.data")) == digest
