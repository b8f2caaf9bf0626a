#!/usr/bin/env bash
# Makes .venv from the hash-locked requirements. Needs Python 3.11 or later; on Debian, installs what its python3 lacks.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed; $python is $("$python" -V). Set PYTHON to one." >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "setup: installing python3-venv"
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -q && $sudo apt-get install -qy --no-install-recommends python3-venv
fi
echo "setup: virtual environment (.venv)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q --require-hashes -r requirements/bootstrap.txt
.venv/bin/uv pip sync -q --require-hashes requirements/dev.txt requirements/bootstrap.txt
.venv/bin/uv pip install -q --no-deps --no-build-isolation -e .
touch .venv/.ready
