#!/bin/sh
# Builds llama-cpp-python once, for every x86-64 processor with AVX2 (or for this Arm processor's base), and keeps the wheel in
# the user's cache. A wheel built for the very processor of the build (upstream's default) dies by illegal instruction on
# another one, and on virtual machines that announce more than they let a guest use. Its source is patched
# (toolchain/runtime/image/barrier.patch): threads of the stock one spin where other programs run. `stock` leaves the patch out,
# for benchmarks/busy.py.
# usage: engine-wheel.sh [PYTHON [VERSION [stock]]]   prints the folder of the wheel; by default
# python3 and the version of constraints.txt
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3} kind=${3:-patched}
version=${2:-$(sed -n 's/^llama_cpp_python==//p' "$root/constraints.txt")}
patch=$(sha256sum "$root/toolchain/runtime/image/barrier.patch" | cut -c1-12)
name="llama-cpp-python-$version-portable-eyes"
[ "$kind" = stock ] || name="$name-$patch"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/demitasse/wheels/$name"
if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    if ! command -v "${CXX:-c++}" >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
        echo "error: llama.cpp is compiled here, and there is no C++ compiler: sudo apt install build-essential" >&2
        exit 3
    fi
    mkdir -p "$folder"
    part=$(mktemp -d "$folder/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    echo "building llama.cpp $version (about five minutes, once)" >&2
    "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$part" "llama-cpp-python==$version" >&2
    mkdir "$part/source"
    tar -xzf "$part"/*.tar.gz -C "$part/source" --strip-components 1
    [ "$kind" = stock ] || PYTHONPATH="$root" "$python" -m toolchain.patching "$part/source" "$version" >&2
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=ON -DMTMD_VIDEO=OFF -DLLAMA_OPENSSL=OFF" \
        "$python" -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir "$part" "$part/source" >&2
    mv "$part"/*.whl "$folder"/
fi
echo "$folder"
