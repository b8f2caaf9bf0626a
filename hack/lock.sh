#!/usr/bin/env bash
# Resolves requirements/*.txt anew: pinned, with hashes, naming no index.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # OUTPUT INPUT [uv options]
    .venv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
        --universal --python-version 3.11 "${@:2}" -o "requirements/$1.txt"
    echo "lock: requirements/$1.txt"
}
compile bootstrap <(echo uv)
compile mlflow <(echo mlflow)
compile operator pyproject.toml --extra operator
compile server pyproject.toml --extra server
compile server-onnx-sklearn pyproject.toml --extra server --extra grpc --extra onnx --extra sklearn --extra auth --extra otel
compile dev pyproject.toml --extra operator --extra server --extra grpc --extra onnx --extra sklearn --extra auth --extra otel --extra demo --extra dev
