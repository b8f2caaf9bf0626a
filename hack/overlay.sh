#!/usr/bin/env bash
# overlay.sh VENV REQUIREMENTS [FINISH]: makes a virtual environment that lies over .venv, with hash-locked packages of
# its own that .venv can't have beside its others. What they depend on is listed with them, or found in .venv.
# The packages lie in the cache, made once for all clones; FINISH, a script, is given their folder before that is used.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelramp
name=${1#.venv-}
packages=$cache/$name-$({ .venv/bin/python -VV && cat "${@:2}" hack/overlay.sh; } | sha256sum | head -c 12)
mkdir -p "$cache"
exec {lock}> "$cache/$name.lock"
flock "$lock"
if [ ! -d "$packages" ]; then
    rm -rf "$packages.unfinished"
    .venv/bin/uv pip install -q --target "$packages.unfinished" --python .venv/bin/python --no-deps --require-hashes -r "$2"
    [ $# -lt 3 ] || "$3" "$packages.unfinished"
    mv "$packages.unfinished" "$packages"
fi

site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
python=$1/bin/python
[ -x "$python" ] || .venv/bin/python -m venv --without-pip "$1"
printf 'import site; site.addsitedir("%s")\n' "$packages" "$(site .venv/bin/python)" > "$(site "$python")/beneath.pth"
# One file for all clones: where somebody has emptied the cache, none is ready.
ln -sfn "$packages/.ready" "$1/.ready"
touch "$1/.ready"
