# The MLflow tracking server and registry of the demo and the e2e tests.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE}
RUN python3 -m venv /opt/mlflow
ENV PATH=/opt/mlflow/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 HOME=/tmp MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
COPY requirements/mlflow.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip --require-hashes -r /requirements/mlflow.txt
USER 65532:65532
EXPOSE 5000
# The database and the artifacts live in /data, for which the pod brings a volume. A client is served under any
# name, since a port of the demo's is published under names that are not known here.
ENTRYPOINT ["mlflow", "server", "--host=0.0.0.0", "--port=5000", "--workers=1", \
    "--backend-store-uri=sqlite:////data/mlflow.db", "--artifacts-destination=/data/artifacts", "--serve-artifacts", \
    "--allowed-hosts=*"]
