#!/usr/bin/env bash
# torch.sh PACKAGES: completes torch and Keras in that folder, for the tests of their runtimes on a machine without a
# GPU. PyPI's torch for Linux is built for CUDA and brings 3 GB of it. Here it gets the three small libraries that it
# calls without a GPU, and stand-ins for the others, in which every function answers with an error. Not for serving.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=$1
if ! command -v gcc nm >/dev/null; then
    echo "torch: installing gcc"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -q && $sudo apt-get install -qy --no-install-recommends gcc libc6-dev binutils
fi
symbols=$(mktemp -d)
trap 'rm -rf "$symbols"' EXIT
# LIBRARY VERSION PATTERN: a library, the version its symbols carry, and what they are called where they carry none.
stand_in() {
    { grep -E "@$2\$" "$symbols/wanted" || grep -E "^$3[^@]*\$" "$symbols/wanted" || true; } |
        sed 's/@.*//; s/.*/int &(void) { return 1; }/' > "$symbols/source.c"
    echo "$2 { global: *; };" > "$symbols/versions"
    gcc -shared -fPIC -w -fno-builtin -nostdlib -Wl,-soname,"$1" -Wl,--version-script="$symbols/versions" \
        -o "$packages/nvidia/cu13/lib/$1" "$symbols/source.c"
}
nm -D --undefined-only "$packages"/torch/lib/*.so | awk '$1 == "U" {print $2}' | sort -u > "$symbols/wanted"
for library in libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcusolver.so.12 libcusparse.so.12 \
    libnvrtc.so.13; do
    stand_in "$library" "$library" '#'
done
stand_in libcusparseLt.so.0 libcusparseLt.so.0 cusparseLt
stand_in libnccl.so.2 libnccl.so.2 nccl
stand_in libnvshmem_host.so.3 NVSHMEM '#'
PYTHONPATH=$packages .venv/bin/python -c "import torch"
