#!/usr/bin/env bash
# overlay.sh VENV REQUIREMENTS: makes a virtual environment that lies over .venv, with hash-locked packages of its own
# that .venv can't have beside its others. What they depend on is listed with them, or found in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
python=$1/bin/python
[ -x "$python" ] || .venv/bin/python -m venv --without-pip "$1"
echo "import site; site.addsitedir('$(site .venv/bin/python)')" > "$(site "$python")/beneath.pth"
.venv/bin/uv pip install -q --python "$python" --no-deps --require-hashes -r "$2"
