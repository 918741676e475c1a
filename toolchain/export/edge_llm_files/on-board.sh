#!/bin/sh
# Builds the TensorRT engine on the board, once for each model, GPU, TensorRT and JetPack; serves it.
#
#   ./on-board.sh [serve [PORT]]    builds if need be, then serves on 127.0.0.1 (port 8000)
#   ./on-board.sh build             builds alone
#
# EDGELLM           source tree of TensorRT Edge-LLM, built there    ~/TensorRT-Edge-LLM
# EDGELLM_PYTHON    Python with its server's packages                python3
# EDGELLM_ENGINES   where engines are kept                           ~/.cache/demitasse/edge-llm
#
# A second run finds the engine. What an interrupted build left is never served.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/settings.sh"
verb=${1:-serve}
port=${2:-8000}
tree=${EDGELLM:-$HOME/TensorRT-Edge-LLM}
python=${EDGELLM_PYTHON:-python3}
cache=${EDGELLM_ENGINES:-$HOME/.cache/demitasse/edge-llm}
builder=$tree/build/examples/llm/llm_build
plugin=$tree/build/libNvInfer_edgellm_plugin.so
onnx=$here/onnx

fail() {
    echo "error: $2" >&2
    [ -z "${3:-}" ] || printf '\nhint: %s\n' "$3" >&2
    exit "$1"
}

case $verb in
build | serve) ;;
*) fail 2 "\`$verb\`: neither build nor serve" ;;
esac
case $port in
'' | *[!0-9]*) fail 2 "\`$port\`: not a port" ;;
esac
for file in "$builder" "$plugin"; do
    [ -f "$file" ] || fail 3 "$file: not found" \
        "build TensorRT Edge-LLM $RELEASE on this board, see README.md; EDGELLM names its folder"
done
[ -f "$onnx/SHA256SUMS" ] || fail 4 "onnx: not there, or not whole" \
    "run ./export-onnx.sh on the host and copy the folder again"
[ "$(cat "$onnx/CHECKPOINT")" = "$CHECKPOINT_SHA256" ] ||
    fail 4 "onnx: of another checkpoint" "run ./export-onnx.sh on the host again"

# An engine is good for one GPU, one TensorRT and one JetPack; and for the plugin it was built with.
gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1 || true)
[ -n "$gpu" ] || gpu=$(tr -d '\0' 2>/dev/null </proc/device-tree/model || true)
tensorrt=$(dpkg-query -W -f '${Package} ${Version}\n' 'libnvinfer[0-9]*' 2>/dev/null |
    sort | head -n 1 || true)
jetpack=$(dpkg-query -W -f '${Version}' nvidia-jetpack 2>/dev/null || true)
[ -n "$jetpack" ] || jetpack=$(head -n 1 /etc/nv_tegra_release 2>/dev/null || true)
[ -n "$gpu" ] || fail 7 "no NVIDIA GPU is seen here" "is this the Jetson?"
[ -n "$tensorrt" ] || fail 3 "TensorRT is not installed" "sudo apt-get install nvidia-jetpack"
tools=$(cat "$builder" "$plugin" | sha256sum | cut -d ' ' -f 1)
key=$(printf '%s\n' "$gpu" "$tensorrt" "$jetpack" "$tools" "$MAX_INPUT" "$MAX_TOKENS" |
    cat - "$onnx/SHA256SUMS" | sha256sum | cut -c 1-16)
engine=$cache/$MODEL-$key
export EDGELLM_PLUGIN_PATH="$plugin"
export LD_LIBRARY_PATH="$tree/build:$tree/build/cpp${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$tree:$tree/build/pybind${PYTHONPATH:+:$PYTHONPATH}"

mkdir -p "$cache"
exec 9>"$cache/.$MODEL-$key.lock"
flock 9 # two builds at once would take twice the memory
if [ -f "$engine/llm.engine" ]; then
    echo "engine: there already, for $gpu, $tensorrt, JetPack ${jetpack:-unknown}"
else
    (cd "$onnx" && sha256sum --quiet -c SHA256SUMS) >&2 ||
        fail 4 "onnx: not as it was made" "copy the folder again"
    part=$cache/.$MODEL-$key.part
    rm -rf "$part"
    echo "engine: building for $gpu, $tensorrt, JetPack ${jetpack:-unknown}; once, minutes and more"
    "$builder" --onnxDir "$onnx/llm" --engineDir "$part" \
        --maxBatchSize 1 --maxInputLen "$MAX_INPUT" --maxKVCacheCapacity "$MAX_TOKENS" >&2 ||
        fail 7 "llm_build failed" "killed? it takes about four bytes of memory a parameter"
    [ -s "$part/llm.engine" ] || fail 7 "llm_build made no llm.engine"
    sync
    mv "$part" "$engine"
    echo "engine: $engine"
fi
[ "$verb" = serve ] || exit 0

# The server has no key and would listen on every address: it is asked through a tunnel.
cat <<END
from another computer:
  ssh -N -L $port:127.0.0.1:$port $(id -un)@$(uname -n)
  demitasse ask http://127.0.0.1:$port "hello"
  demitasse bench http://127.0.0.1:$port --save $MODEL-edge-llm.json
END
# Releases before 0.10.0 name a built engine by another option.
case $("$python" -m experimental.server --help 2>&1 || true) in
*--engine-dir*) by=--engine-dir ;;
*) by=--model ;;
esac
exec "$python" -m experimental.server "$by" "$engine" --host 127.0.0.1 --port "$port" 9>&-
