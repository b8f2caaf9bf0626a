"""`modelramp-server`: the subcommands, and how a failure is told to Kubernetes."""

import json
import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from modelramp_server.observability import logs
from modelramp_server.runtime.base import ModelProblem
from modelramp_server.settings import (
    KINDS,
    CommonSettings,
    FetchSettings,
    InvalidSettings,
    ServeSettings,
    add_flags,
    parse,
    read_dotenv,
    unknown_argument,
)

_USAGE_ERROR = 2

log = logging.getLogger("modelramp_server")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Exits 0, 1 (a reason stands in the termination log) or 2 (settings)."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        sys.exit(_usage(unknown_argument(arguments.command, unknown[0])))
    read_dotenv()
    try:
        settings = parse(KINDS[arguments.command], arguments)
    except InvalidSettings as error:
        sys.exit(_usage(str(error)))
    logs.configure(settings.log_level)
    try:
        _run(settings)
    except ModelProblem as problem:
        _tell(settings.termination_log, problem)
        _exit(1)
    _exit(0)


def _run(settings: CommonSettings) -> None:
    from modelramp_server.model_store import fetch

    if isinstance(settings, FetchSettings):
        fetch.fetch(settings)
    elif isinstance(settings, ServeSettings):
        from modelramp_server.serve import serve

        serve(settings, fetch.local_folder(settings))


class _Parser(ArgumentParser):
    """Says what is wrong in one line; all flags at once would bury it."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        sys.exit(_usage(f"{message}; see {self.prog} --help"))


def _parser() -> ArgumentParser:
    parser = _Parser("modelramp-server", description="Serve one MLflow model over HTTP.")
    parser.add_argument("--version", action="version", version=version("modelramp"))
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {"serve": "load a model and answer requests", "fetch": "download a model, verify it, and exit"}
    for command, kind in KINDS.items():
        text = helps[command]
        add_flags(commands.add_parser(command, help=text, description=text, allow_abbrev=False), kind)
    return parser


def _tell(path: Path, problem: ModelProblem) -> None:
    """Leave the reason where the kubelet finds it; on a machine without a kubelet the log line is enough."""
    log.error("%s: %s", problem.reason, problem)
    if path.exists() or path != CommonSettings.model_fields["termination_log"].default:
        path.write_text(json.dumps({"reason": problem.reason, "message": str(problem)}))


def _usage(message: str) -> int:
    print(f"modelramp-server: {message}", file=sys.stderr)
    return _USAGE_ERROR


def _exit(status: int) -> None:
    """End now: the model's thread may be inside a forward that never returns."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
