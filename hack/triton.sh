#!/usr/bin/env bash
# Makes .venv-triton: a Triton server with its Python backend, for the tests of --upstream on a machine without a GPU.
# PyTriton's wheel brings one. Its models run in the system's libpython, which heeds no virtual environment and no
# PYTHONPATH: numpy is put where the backend looks for modules. Not for serving.
set -euo pipefail
cd "$(dirname "$0")/.."

python=/usr/bin/python3
version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.9 | 3.1[0-2]) ;;
*) echo "triton: its tests are skipped; they need a system whose Python is 3.9 to 3.12, this has $version" && exit ;;
esac
.venv/bin/uv pip install -q --python $python --target .venv-triton --no-deps --require-hashes -r requirements/triton.txt
backend=.venv-triton/pytriton/tritonserver/backends/python
ln -sfn "../../python_backend_stubs/$version/triton_python_backend_stub" $backend/triton_python_backend_stub
ln -sfn ../../../../numpy $backend/numpy

library=libpython$version
if ! grep -q "$library.so.1.0" <(/sbin/ldconfig -p); then
    echo "triton: fetching $library"
    package=$(mktemp -d)
    trap 'rm -rf "$package"' EXIT
    fetch() { (cd "$package" && apt-get download -q "$library"); }
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    fetch || { $sudo apt-get update -q && fetch; }
    dpkg -x "$package"/*.deb "$package"
    cp "$package"/usr/lib/*/"$library.so.1.0" .venv-triton/nvidia_pytriton.libs/
fi
touch .venv-triton/.ready
