"""A local Kubernetes for this clone. README.md beside this file says what it is made of.

CLUSTER chooses which: `own` (built here from processes), `kind`, or `current` (your kubectl context). Without it,
kind where a Docker engine answers and `own` elsewhere. MODELRAMP_CLUSTER_DIR chooses the folder of its state.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from typing import Protocol

import binaries
from errors import ClusterError
from foreign import Current, Kind, docker_answers
from own import Own
from processes import recorded
from project_images import IMAGES, TEST_IMAGES, Image
from state import Cluster, this_cluster


class Provider(Protocol):
    """What every kind of cluster can do."""

    def up(self, *, control_plane_only: bool, addons: Collection[str], images: Sequence[Image]) -> None: ...
    def down(self) -> None: ...
    def healthy(self) -> bool: ...
    def build(self, images: Sequence[Image]) -> None: ...
    def load(self, image: str) -> None: ...
    def publish(self, service: str) -> int: ...
    def unpublish(self, service: str) -> None: ...


PROVIDERS: dict[str, type[Own | Kind | Current]] = {"own": Own, "kind": Kind, "current": Current}


def main() -> int:
    try:
        cluster = this_cluster()
        if sys.argv[1:2] and sys.argv[1] in _COMMANDS:  # what follows is not this program's to read
            _become(cluster, sys.argv[1], sys.argv[2:])
        arguments = _parser().parse_args()
        if arguments.verb == "kubeconfig":
            print(cluster.kubeconfig)
            return 0
        if arguments.verb == "status":
            return _status(cluster)
        if arguments.verb == "down" and not cluster.folder.exists():
            return 0
        with cluster.locked():
            _change(cluster, arguments)
    except ClusterError as failure:
        print(f"cluster: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="bring the cluster up, or repair it")
    up.add_argument("--control-plane-only", action="store_true", help="no node, no root: for integration tests")
    up.add_argument("--with", dest="addons", action="append", default=[], choices=["metrics-server", "gateway"])
    which = up.add_mutually_exclusive_group()
    for flag, images, about in (
        ("--images", IMAGES, "build and load the project's images meanwhile"),
        ("--test-images", TEST_IMAGES, "these, and what the e2e tests need beside"),
    ):
        which.add_argument(flag, dest="images", action="store_const", const=images, default=(), help=about)
    verbs.add_parser("down", help="remove the cluster and all it has left anywhere")
    verbs.add_parser("status", help="what runs; exits 1 unless all of it is ready")
    verbs.add_parser("build-images", help="build the project's images and load them into the node")
    load = verbs.add_parser("load-image", help="load an archive, or a built image by its tag, into the node")
    load.add_argument("image", metavar="ARCHIVE_OR_TAG")
    for verb, about in (
        ("publish", "bring a Service to a loopback port, and print the port"),
        ("unpublish", "end that"),
    ):
        verbs.add_parser(verb, help=about).add_argument("service", metavar="NAMESPACE/SERVICE[:PORT]")
    verbs.add_parser("kubeconfig", help="print the kubeconfig's path")
    for verb, about in _COMMANDS.items():
        verbs.add_parser(verb, help=about)
    return parser


_COMMANDS = {
    "kubectl": "run kubectl on the cluster",
    "helm": "run helm on the cluster",
    "nsenter": "run a command in the cluster's network, where Services and pods can be reached",
}


def _provider(cluster: Cluster) -> Own | Kind | Current:
    """The kind that the cluster is; for a new one the kind that was asked for, or that suits the machine."""
    present, asked = cluster.read().get("provider"), os.environ.get("CLUSTER")
    if asked and asked not in PROVIDERS:
        raise ClusterError(f"CLUSTER={asked}: write one of {', '.join(PROVIDERS)}")
    if present and asked and present != asked:
        raise ClusterError(f"CLUSTER={asked}, but the cluster in {cluster.folder} is of the kind {present}: down first")
    return PROVIDERS[present or asked or ("kind" if docker_answers() else "own")](cluster)


def _change(cluster: Cluster, arguments: argparse.Namespace) -> None:
    provider: Provider = Own(cluster) if getattr(arguments, "control_plane_only", False) else _provider(cluster)
    match arguments.verb:
        case "up":
            cluster.record(provider=next(name for name, kind in PROVIDERS.items() if isinstance(provider, kind)))
            provider.up(
                control_plane_only=arguments.control_plane_only,
                addons=arguments.addons,
                images=arguments.images,
            )
        case "down" if cluster.folder.exists():  # it may have waited for another that took it down
            provider.down()
        case "build-images":
            provider.build(IMAGES)
        case "load-image":
            provider.load(arguments.image)
        case "publish":
            print(provider.publish(arguments.service))
        case "unpublish":
            provider.unpublish(arguments.service)


def _become(cluster: Cluster, verb: str, command: list[str]) -> None:
    """Replace this process by the command."""
    if verb == "kubectl" and not cluster.kubeconfig.exists():
        raise ClusterError(f"there is no cluster in {cluster.folder}: run up first")
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    if verb == "kubectl":
        command = [binaries.kubectl(), *command]
    elif verb == "helm":
        command = [str(binaries.ensure(binaries.HELM_CLI) / "helm"), *command]
    elif command:
        provider = _provider(cluster)
        if not isinstance(provider, Own):
            raise ClusterError("only a cluster of the kind `own` has a network of its own: publish the Service instead")
        command = [*provider.network_prefix(), *command]
    else:
        raise ClusterError("nsenter: which command?")
    os.execvp(command[0], command)


def _status(cluster: Cluster) -> int:
    recorded_state = cluster.read()
    if not recorded_state:
        print(f"there is no cluster in {cluster.folder}")
        return 1
    healthy = _provider(cluster).healthy()
    print(f"{'ready' if healthy else 'NOT READY'}: {recorded_state.get('provider')} cluster {cluster.name}")
    print(f"  kubeconfig  {cluster.kubeconfig}")
    for process in recorded(cluster):
        print(f"  {process.name:<26} {process.pid() or 'ENDED, see ' + str(process.log)}")
    for service, entry in recorded_state.get("publications", {}).items():
        print(f"  {service:<26} 127.0.0.1:{entry['port'] if isinstance(entry, dict) else entry}")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
