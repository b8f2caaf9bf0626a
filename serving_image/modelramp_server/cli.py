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

from modelramp_server import listening
from modelramp_server.dotenv_file import read_dotenv
from modelramp_server.observability import logs
from modelramp_server.runtime.base import ModelProblem
from modelramp_server.settings import (
    KINDS,
    CommonSettings,
    FetchSettings,
    InvalidSettings,
    PredictSettings,
    ServeSettings,
    add_flags,
    parse,
    unknown_argument,
)

_USAGE_ERROR = 2
_INTERRUPTED = 130

log = logging.getLogger("modelramp_server")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Exits 0, 1 (a reason stands in the termination log), 2 (settings) or as
    `predict` says."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown and arguments.command in KINDS:
        sys.exit(_usage(unknown_argument(arguments.command, unknown[0])))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if arguments.command == "hash-key":
        return _hash_key(arguments.name, arguments.stdin)
    try:
        read_dotenv()
        settings = parse(KINDS[arguments.command], arguments)
    except InvalidSettings as error:
        sys.exit(_usage(str(error)))
    logs.configure(settings.log_level, settings.log_format)
    try:
        status = _run(settings)
    except InvalidSettings as error:
        _exit(_usage(str(error)))
    except ModelProblem as problem:
        _tell(settings.termination_log, problem)
        _exit(1)
    except KeyboardInterrupt:
        print("modelramp-server: stopped", file=sys.stderr)
        _exit(_INTERRUPTED)
    _exit(status)


def _run(settings: CommonSettings) -> int:
    from modelramp_server.model_store import fetch

    if isinstance(settings, PredictSettings):
        from modelramp_server.scoring.command import predict

        return predict(settings)
    if isinstance(settings, FetchSettings):
        fetch.fetch(settings)
    elif isinstance(settings, ServeSettings):
        listening.check(settings)
        from modelramp_server.serve import serve

        serve(settings, fetch.served_folder(settings))
    return 0


class _Parser(ArgumentParser):
    """Says what is wrong in one line; all flags at once would bury it."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        sys.exit(_usage(f"{message}; see {self.prog} --help"))


def _parser() -> ArgumentParser:
    parser = _Parser("modelramp-server", description="Serve one MLflow model over HTTP.")
    parser.add_argument("--version", action="version", version=version("modelramp"))
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "serve": "load a model and answer requests",
        "predict": "score a table or a folder of images, without a server",
        "fetch": "download a model, verify it, and exit",
    }
    for command, kind in KINDS.items():
        text = helps[command]
        add_flags(commands.add_parser(command, help=text, description=text, allow_abbrev=False), kind)
    hashing = commands.add_parser("hash-key", help="make an API key and its line for API_KEYS_FILE")
    hashing.add_argument("name", help="whose key: letters, digits and ._@-")
    hashing.add_argument("--stdin", action="store_true", help="hash the key on standard input instead of making one")
    return parser


def _hash_key(name: str, stdin: bool) -> None:
    """The line goes to stdout, a new key to stderr: `hash-key alice >> keys` keeps the one and shows the other."""
    from modelramp_server.security import api_keys

    key = sys.stdin.readline().strip() if stdin else api_keys.new_key()
    try:
        line = api_keys.entry(name, key)
    except api_keys.BadKeys as error:
        sys.exit(_usage(str(error)))
    if not stdin:
        print(f"the key, shown this once: {key}", file=sys.stderr)
    print(line)


def _tell(path: Path, problem: ModelProblem) -> None:
    """Leave the reason where the kubelet finds it; on a machine without a kubelet the log line is enough."""
    log.error("%s: %s", problem.reason, problem)
    try:
        if path.exists() or path != CommonSettings.model_fields["termination_log"].default:
            path.write_text(json.dumps({"reason": problem.reason, "message": str(problem)}))
    except OSError as error:
        log.error("TERMINATION_LOG (--termination-log), %s, can't be written: %s", path, error.strerror)


def _usage(message: str) -> int:
    print(f"modelramp-server: {message}", file=sys.stderr)
    return _USAGE_ERROR


def _exit(status: int) -> None:
    """End now: the model's thread may be inside a forward that never returns."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
