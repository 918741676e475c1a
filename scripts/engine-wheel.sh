#!/bin/sh
# Builds llama-cpp-python once, for every x86-64 processor with AVX2 (or for this Arm processor's base), and keeps the wheel in
# the user's cache. A wheel built for the very processor of the build (upstream's default) dies by illegal instruction on
# another one, and on virtual machines that announce more than they let a guest use.
# usage: engine-wheel.sh PYTHON VERSION   prints the folder of the wheel
set -eu

python=$1 version=$2
folder="${XDG_CACHE_HOME:-$HOME/.cache}/demitasse/wheels/llama-cpp-python-$version-portable"
if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    mkdir -p "$folder"
    part=$(mktemp -d "$folder/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    echo "building llama.cpp $version (about five minutes, once)" >&2
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF" \
        "$python" -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir "$part" "llama-cpp-python==$version" >&2
    mv "$part"/*.whl "$folder"/
fi
echo "$folder"
