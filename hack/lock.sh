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
image="--extra server --extra grpc --extra auth --extra otel --extra images"
compile server-onnx-sklearn pyproject.toml $image --extra onnx --extra sklearn
gpu=(onnx-gpu sklearn torch keras pyfunc)
compile "server-$(IFS=-; echo "${gpu[*]}")" pyproject.toml $image "${gpu[@]/#/--extra=}"
compile dev pyproject.toml --extra operator $image --extra onnx --extra sklearn --extra demo --extra dev

# Torch for the tests of its runtimes, beside what dev.txt has. No CUDA: hack/torch.sh stands in for what torch links to.
compile torch <(printf '%s\n' torch keras) --constraint requirements/dev.txt --no-emit-package triton \
    $(grep -ohE '^(nvidia|cuda)-[a-z0-9-]+' "requirements/server-$(IFS=-; echo "${gpu[*]}").txt" |
        grep -vE 'cuda-(runtime|cupti)|cufile' | sort -u | sed 's/^/--no-emit-package /')

# The peers of make bench-server, each for an environment of its own. MLServer does not become ready on later uvloops.
peer() { compile "../tests/bench/peers/$1" <(printf '%s\n' "$1" onnxruntime pillow "${@:2}"); }
peer bentoml
peer kserve
peer litserve uvloop httptools
peer mlserver 'uvloop<0.22'

# A Triton server for the tests of --upstream: the wheel that brings one, and the numpy that it is built for.
compile triton <(printf '%s\n' 'nvidia-pytriton==0.7.*' 'numpy<2') --no-deps

# Clients that ask for older packages than ours: what they import and dev.txt lacks, and nothing beneath.
compile clients <(printf '%s\n' kserve 'cloudevents<2' deprecation grpc-interceptor httpcore httpx psutil six tabulate \
    timing-asgi watchfiles boto3 botocore jmespath s3transfer) --no-deps
