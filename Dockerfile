# Targets: operator, server. Requirements come before sources, so a change of source rebuilds in seconds.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS python
RUN python3 -m venv /opt/modelramp
ENV PATH=/opt/modelramp/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOME=/tmp

FROM python AS wheel
COPY hack/cluster/build-backend.txt /source/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --require-hashes -r /source/build-backend.txt
COPY pyproject.toml README.md LICENSE* /source/
COPY operator /source/operator
COPY serving_image /source/serving_image
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /source

FROM python AS operator
COPY requirements/operator.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --require-hashes -r /requirements/operator.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl
USER 65532:65532
ENTRYPOINT ["python", "-m", "modelramp"]

FROM python AS server
# Which models the image can load: a comma-separated list for which requirements/server-*.txt has a lock. For GPUs:
# --build-arg BACKENDS=onnx-gpu,sklearn,torch,keras,pyfunc (the wheels bring CUDA; the node brings the driver).
ARG BACKENDS="onnx,sklearn"
COPY requirements/server*.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --require-hashes \
        -r "/requirements/server-$(printf %s "$BACKENDS" | tr , -).txt"
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps --no-index /wheels/*.whl
USER 65532:65532
ENTRYPOINT ["modelramp-server"]
