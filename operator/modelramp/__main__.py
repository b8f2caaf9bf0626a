"""``python -m modelramp``: the operator's process. Wiring only."""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

from modelramp.adapters.clock import SystemClock
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.lease import KubeLease
from modelramp.adapters.mlflow_registry import MlflowRegistry
from modelramp.adapters.pod_http import DirectFetch, Fetch, ProxyFetch
from modelramp.adapters.prober import PodProber
from modelramp.adapters.ready import await_resource
from modelramp.adapters.scraper import Scraper
from modelramp.edge import health, logs
from modelramp.edge.handlers import Watch
from modelramp.edge.settings import (
    Environment,
    Scrape,
    Settings,
    SettingsError,
    kubeconfig,
    read_environment,
    read_settings,
)
from modelramp.engine.leader import Leader, LeaseLost
from modelramp.engine.queue import WorkQueue
from modelramp.engine.reconcile import EngineConfig, Reconciler
from modelramp.engine.registries import Registries
from modelramp.ports import ClusterError, Key

logger = logging.getLogger("modelramp")

LEASE_NAME = "modelramp-operator"
WRONG_SETTINGS, CANNOT_WORK = 2, 1


async def operate(settings: Settings, environment: Environment, stop_on_signals: Callable[[], None]) -> None:
    """Runs until cancelled. Raises ClusterError, LeaseLost, OSError (port taken)."""
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        api = await KubeApi.connect(kubeconfig())
        stack.push_async_callback(api.close)
        queue = WorkQueue(asyncio.get_running_loop())
        vitals = health.Vitals(queue)
        runner = await health.serve(vitals.application(), environment.health_host, environment.health_port)
        stack.push_async_callback(runner.cleanup)
        await await_resource(api)

        identity = environment.pod_name or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        leader = Leader(KubeLease(api, Key(environment.lease_namespace, LEASE_NAME)), clock, identity)
        vitals.ready_when(lambda: leader.takes_part)
        await leader.acquire()
        stack.push_async_callback(leader.release)
        vitals.leads()

        adapters = {name: MlflowRegistry(name, r.uri) for name, r in settings.registries.items()}
        for adapter in adapters.values():
            stack.callback(adapter.close)
        configs = {name: registry.config() for name, registry in settings.registries.items()}
        registries = Registries(configs, adapters, clock, queue.add)
        fetch = await _fetch(settings, api, stack)
        cluster = KubeCluster(api, clock, leader.may_write)
        config = EngineConfig(
            server_image=settings.server_image,
            traffic_ttl=settings.traffic_ttl.total_seconds(),
            look_interval=settings.look_interval.total_seconds(),
        )
        reconciler = Reconciler(cluster, Scraper(fetch), PodProber(fetch), registries, clock, config)
        watch = Watch(queue, settings.watch_namespaces, kubeconfig())

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(leader.hold())
            tasks.create_task(registries.run(settings.poll_interval.total_seconds()))
            workers = queue.run_workers(settings.workers, vitals.counted(reconciler.reconcile))
            tasks.create_task(leader.resign_after(workers))
            tasks.create_task(watch.run(stop_on_signals))
            tasks.create_task(watch.resync())


async def _fetch(settings: Settings, api: KubeApi, stack: AsyncExitStack) -> Fetch:
    if settings.scrape is Scrape.POD_PROXY:
        return ProxyFetch(api)
    return await stack.enter_async_context(DirectFetch())


async def run(settings: Settings, environment: Environment) -> int:
    """The process's exit status. SIGTERM and SIGINT end it in order: lease released, connections closed."""

    def stop_on_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, operation.cancel)

    operation = asyncio.create_task(operate(settings, environment, stop_on_signals))
    stop_on_signals()
    try:
        await operation
    except asyncio.CancelledError:
        logger.info("stopped")
        return 0
    except Exception as error:
        for cause in _leaves(error):
            expected = isinstance(cause, (ClusterError, LeaseLost, OSError))
            logger.critical("%s", cause, exc_info=None if expected else cause)
    return CANNOT_WORK


def _leaves(error: Exception) -> list[Exception]:
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def main() -> int:
    try:
        environment = read_environment()
        settings = read_settings(environment.config)
    except SettingsError as error:
        print(f"modelramp: {error}", file=sys.stderr)
        return WRONG_SETTINGS
    logs.configure(settings.log_format)
    return asyncio.run(run(settings, environment))


if __name__ == "__main__":
    # After an orderly end nothing is left to wait for but MLflow's threads, which may hang in a request.
    status = main()
    logging.shutdown()
    os._exit(status)
