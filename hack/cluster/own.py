"""The cluster that this tool builds itself, from processes: with a node, or a control plane alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import binaries
import cgroups
import control_plane
import gateway
import images as node_images
import kernel
import metrics_server
import namespaces
import node
import packages
import pki
import project_images
import publish
from errors import ClusterError
from processes import Process, recorded
from progress import note, step
from project_images import Image
from root import become_root, hand_back
from state import Cluster

CONTROL_PLANE, WITH_NODE = "control plane only", "with a node"

# Clients before the servers whose answers they would wait for.
_STOPPING_ORDER = (
    "gateway",
    "metrics-server",
    "coredns",
    "kube-proxy",
    "kubelet",
    "containerd",
    *reversed(control_plane.NAMES),
)


@dataclass(frozen=True)
class Own:
    """Doing `up` again repairs what is missing; `down` removes whatever there is."""

    cluster: Cluster

    def up(self, *, control_plane_only: bool, addons: Collection[str], images: Sequence[Image]) -> None:
        if control_plane_only:
            self._up_control_plane(addons)
        else:
            self._up_with_node(addons, images)
        note(f"the cluster is up: export KUBECONFIG={self.cluster.kubeconfig}")

    def healthy(self) -> bool:
        """Whether every process that was started runs, and the control plane and the node are ready."""
        running = all(process.pid() is not None for process in recorded(self.cluster))
        return running and control_plane.healthy(self.cluster) and (not self._has_node() or node.healthy(self.cluster))

    def down(self) -> None:
        if self._has_node():
            become_root()
        with step("stopping processes"):
            for process in sorted(recorded(self.cluster), key=_stopping_order):
                process.stop(patience=3.0)
        if self._has_node():
            with step("removing namespaces, mounts, control groups"):
                cgroups.kill(self.cluster)
                cgroups.remove(self.cluster)
                namespaces.remove(self.cluster)
                if not namespaces.other_clusters(self.cluster):
                    kernel.restore(self.cluster)
                shutil.rmtree(self.cluster.run, ignore_errors=True)
        shutil.rmtree(self.cluster.folder)

    def build(self, images: Sequence[Image]) -> None:
        become_root()
        packages.ensure(packages.IMAGES)
        self._load_all(project_images.build(images))

    def load(self, image: str) -> None:
        self._need_node()
        node_images.load(self.cluster, image)

    def publish(self, service: str) -> int:
        self._need_node()
        return publish.publish(self.cluster, service)

    def unpublish(self, service: str) -> None:
        self._need_node()
        publish.unpublish(self.cluster, service)

    def network_prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it where Services and pods can be reached."""
        self._need_node()
        return namespaces.in_network(self.cluster)

    def _up_control_plane(self, addons: Collection[str]) -> None:
        self._choose(CONTROL_PLANE)
        programs = binaries.ensure(binaries.KUBE)
        pki.create(self.cluster, programs)
        if not self.healthy():
            control_plane.start(self.cluster, programs, control_plane.Place(), publish_api=lambda: None)
        if "gateway" in addons:
            gateway.install_definitions(self.cluster)

    def _up_with_node(self, addons: Collection[str], images: Sequence[Image]) -> None:
        self._choose(WITH_NODE)
        packages.ensure(packages.NODE | (packages.IMAGES if images else {}))
        if os.geteuid():  # what is built as a person stays that person's
            node.build()
            become_root()
        with ThreadPoolExecutor(1) as second:
            built = second.submit(project_images.build, images) if images else None
            programs = node.build()
            self._start(programs)
            if "metrics-server" in addons:
                metrics_server.start(self.cluster)
            if "gateway" in addons:
                gateway.start(self.cluster)
            if built:
                self._load_all(built.result())
        hand_back(self.cluster)

    def _start(self, programs: node.Programs) -> None:
        pki.create(self.cluster, programs.kubernetes)
        if self.healthy():
            return
        with step("network and mount namespaces, control groups"):
            self.cluster.run.mkdir(exist_ok=True)
            namespaces.create(self.cluster)
            cgroups.create(self.cluster)
            kernel.remember(self.cluster)
        node.start_containerd(self.cluster, programs)
        node_images.load_pause(self.cluster)
        control_plane.start(
            self.cluster,
            programs.kubernetes,
            node.place(self.cluster),
            publish_api=lambda: publish.publish_api(self.cluster, programs.kubernetes),
        )
        node.start(self.cluster, programs)
        publish.restore(self.cluster, programs.kubernetes)

    def _load_all(self, built: dict[str, str]) -> None:
        if self._has_node():
            node_images.load_all(self.cluster, built)
        else:
            note(f"built, and no node to load them into: {', '.join(built)}")

    def _has_node(self) -> bool:
        return self.cluster.read().get("mode") == WITH_NODE

    def _need_node(self) -> None:
        if not self._has_node():
            raise ClusterError("this needs a cluster with a node: run up first")
        become_root()

    def _choose(self, mode: str) -> None:
        present = self.cluster.read().get("mode", mode)
        if present != mode:
            raise ClusterError(f"the cluster in {self.cluster.folder} is a cluster {present}: run down first")
        self.cluster.record(mode=mode)


def _stopping_order(process: Process) -> int:
    return _STOPPING_ORDER.index(process.name) if process.name in _STOPPING_ORDER else -1
