"""Fields of an ONNX file's messages that a decoder has: number → name and kind (onnx.proto).

A field that is not here is refused: functions, training, graphs inside of nodes, sparse tensors.
Standard library only, Python 3.10 up.
"""

from device.manifest.protobuf import BYTES, FIXED32, VARINT

MODEL = {
    1: ("ir_version", VARINT),
    2: ("producer_name", BYTES),
    3: ("producer_version", BYTES),
    4: ("domain", BYTES),
    5: ("model_version", VARINT),
    6: ("doc_string", BYTES),
    7: ("graph", BYTES),
    8: ("opset_import", BYTES),
    14: ("metadata_props", BYTES),
}
OPSET = {1: ("domain", BYTES), 2: ("version", VARINT)}
PAIR = {1: ("key", BYTES), 2: ("value", BYTES)}
GRAPH = {
    1: ("node", BYTES),
    2: ("name", BYTES),
    5: ("initializer", BYTES),
    10: ("doc_string", BYTES),
    11: ("input", BYTES),
    12: ("output", BYTES),
}
NODE = {
    1: ("input", BYTES),
    2: ("output", BYTES),
    3: ("name", BYTES),
    4: ("op_type", BYTES),
    5: ("attribute", BYTES),
    6: ("doc_string", BYTES),
    7: ("domain", BYTES),
}
ATTRIBUTE = {
    1: ("name", BYTES),
    2: ("f", FIXED32),
    3: ("i", VARINT),
    4: ("s", BYTES),
    20: ("type", VARINT),
}
# Graphs, tensors and types inside of attributes do not occur in a decoder.
TENSOR = {
    1: ("dims", VARINT),
    2: ("data_type", VARINT),
    8: ("name", BYTES),
    9: ("raw_data", BYTES),
    13: ("external_data", BYTES),
    14: ("data_location", VARINT),
}
VALUE = {1: ("name", BYTES), 2: ("type", BYTES)}
TYPE = {1: ("tensor_type", BYTES)}
TENSOR_TYPE = {1: ("elem_type", VARINT), 2: ("shape", BYTES)}
SHAPE = {1: ("dim", BYTES)}
DIMENSION = {1: ("dim_value", VARINT), 2: ("dim_param", BYTES)}
REPEATED = frozenset(
    (
        *("opset_import", "metadata_props", "node", "initializer", "input", "output"),
        *("attribute", "dims", "external_data", "dim"),
    )
)
"""Fields that may occur several times."""
