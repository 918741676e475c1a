#!/bin/sh
# Makes the ONNX files of `checkpoint/` with NVIDIA's own exporter, on an x86-64 host.
#
#   ./export-onnx.sh
#
# A second run finds what is there. What an interrupted run left is made again.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/settings.sh"
onnx=$here/onnx
part=$here/.onnx.part

if [ -f "$onnx/CHECKPOINT" ] && [ "$(cat "$onnx/CHECKPOINT")" = "$CHECKPOINT_SHA256" ]; then
    echo "onnx: there already, of this checkpoint"
    exit 0
fi
if ! command -v tensorrt-edgellm-export >/dev/null; then
    echo "error: tensorrt-edgellm-export: not found" >&2
    printf '\nhint: install the Python package of TensorRT Edge-LLM %s, see README.md\n' \
        "$RELEASE" >&2
    exit 3
fi

rm -rf "$part"
tensorrt-edgellm-export "$here/checkpoint" "$part"
if [ ! -f "$part/llm/model.onnx" ]; then
    echo "error: the exporter made no llm/model.onnx" >&2
    exit 4
fi

# The board compares these before it builds: a cut copy is found.
(cd "$part" && find . -type f ! -name SHA256SUMS -exec sha256sum {} + | sort -k 2 >SHA256SUMS)
echo "$CHECKPOINT_SHA256" >"$part/CHECKPOINT"
rm -rf "$onnx"
mv "$part" "$onnx"
echo "onnx: made; next: rsync -a '$here/' BOARD:'$MODEL/', and there ./on-board.sh"
