# A Triton with its Python backend for the e2e tests, which needs no GPU: PyTriton's wheel brings one. Not for serving.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE}
# Its models run in the system's libpython, which Debian has in a package of its own.
RUN ldconfig -p | grep -q libpython3 || { apt-get update -q && apt-get install -qy --no-install-recommends \
    "$(python3 -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')" && rm -rf /var/lib/apt/lists/*; }
COPY requirements/triton.txt /requirements/
# That heeds no virtual environment and no PYTHONPATH: numpy is put where the backend looks for modules.
RUN --mount=type=cache,target=/var/cache/pip \
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install --cache-dir /var/cache/pip --target /opt/triton --no-deps \
        --require-hashes -r /requirements/triton.txt && rm -r /tmp/venv && \
    cd /opt/triton/pytriton/tritonserver && ln -s ../../../../numpy backends/python/numpy && \
    ln -s "../../python_backend_stubs/$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')/\
triton_python_backend_stub" backends/python/triton_python_backend_stub && test -x backends/python/triton_python_backend_stub
ENV PATH=/opt/triton/pytriton/tritonserver/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/opt/triton/nvidia_pytriton.libs
USER 65532:65532
ENTRYPOINT ["tritonserver", "--backend-directory=/opt/triton/pytriton/tritonserver/backends"]
