"""A real MLflow whose models have two versions each; and the move of all their aliases at once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration import mlflow_server
from tests.integration.mlflow_server import MlflowServer

# By its own tables, in one transaction: a call of its store for each row would take minutes.
FILL = """
import sys
import sqlalchemy
from sqlalchemy.orm import Session
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel, SqlRegisteredModelAlias
SqlAlchemyStore(sys.argv[1])
with Session(sqlalchemy.create_engine(sys.argv[1])) as session:
    for number in range(int(sys.argv[2])):
        name = f"model-{number:04d}"
        session.add(SqlRegisteredModel(name=name))
        for version in (1, 2):
            session.add(SqlModelVersion(name=name, version=version, source=f"s3://models/{number}/{version}"))
        session.add(SqlRegisteredModelAlias(name=name, alias="prod", version=1))
    session.commit()
"""
MOVE = """
import sys
import sqlalchemy
with sqlalchemy.create_engine(sys.argv[1]).begin() as connection:
    connection.execute(sqlalchemy.text("UPDATE registered_model_aliases SET version = 2"))
"""


@contextmanager
def running(folder: Path, models: int) -> Iterator[MlflowServer]:
    with mlflow_server.running(folder, models, FILL) as server:
        yield server


def move_aliases(folder: Path) -> None:
    """All aliases name version 2."""
    command = [sys.executable, "-c", MOVE, f"sqlite:///{folder}/mlflow.db"]
    subprocess.run(command, check=True, capture_output=True)


def searches(server: MlflowServer) -> int:
    """Searches of the registry so far, as its own access log has them."""
    return server.log.read_text().count("/registered-models/search")
