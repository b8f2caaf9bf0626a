"""``python -m modelramp``: the operator's process. Wiring only."""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from modelramp.adapters.cache import Cache
from modelramp.adapters.clock import SystemClock
from modelramp.adapters.credentials import Credentials
from modelramp.adapters.keyed_fetch import KeyedFetch
from modelramp.adapters.kube import KubeCluster
from modelramp.adapters.kube_api import KubeApi
from modelramp.adapters.lease import KubeLease
from modelramp.adapters.mlflow_registry import MlflowRegistry
from modelramp.adapters.notifier import Notifier, Target
from modelramp.adapters.observe import all_owners
from modelramp.adapters.pod_http import DirectFetch, Fetch, ProxyFetch
from modelramp.adapters.prober import PodProber
from modelramp.adapters.prometheus import Prometheus
from modelramp.adapters.ready import await_resource
from modelramp.adapters.scraper import Scraper
from modelramp.edge import health, logs
from modelramp.edge.handlers import Watch
from modelramp.edge.metrics import Metrics
from modelramp.edge.settings import (
    Environment,
    PrometheusSettings,
    RegistrySettings,
    Scrape,
    Settings,
    SettingsError,
    kubeconfig,
    read_environment,
    read_settings,
)
from modelramp.edge.webhooks import Webhooks
from modelramp.engine.approvals import Approvals
from modelramp.engine.echo import Echo
from modelramp.engine.fleet import Fleet
from modelramp.engine.leader import Leader, LeaseLost
from modelramp.engine.queue import WorkQueue
from modelramp.engine.reconcile import EngineConfig, Reconciler, read_status
from modelramp.engine.registries import Registries
from modelramp.engine.sources import Sources
from modelramp.engine.writeback import WriteBack
from modelramp.ports import ClusterError, Key, Observer

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
        metrics = Metrics(queue)
        api.count_writes(metrics.wrote)
        vitals = health.Vitals(metrics)
        vitals.require(queue.longest_running, health.STUCK_SECONDS, "a pass has been running for {:.0f} s")
        runner = await health.serve(vitals.application(), environment.health_host, environment.health_port)
        stack.push_async_callback(runner.cleanup)
        webhooks = _webhooks(settings, clock)
        if webhooks:
            runner = await health.serve(webhooks.application(), environment.webhook_host, environment.webhook_port)
            stack.push_async_callback(runner.cleanup)
        await await_resource(api)

        identity = environment.pod_name or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        leader = Leader(KubeLease(api, Key(environment.lease_namespace, LEASE_NAME)), clock, identity)
        vitals.ready_when(lambda: leader.takes_part)
        await leader.acquire()
        stack.push_async_callback(leader.release)
        metrics.leads()

        adapters = {name: MlflowRegistry(name, r.uri, _credentials(r)) for name, r in settings.registries.items()}
        for adapter in adapters.values():
            stack.callback(adapter.close)
        configs = {name: registry.config() for name, registry in settings.registries.items()}
        measured = {name: metrics.measured(name, adapter, clock) for name, adapter in adapters.items()}
        registries = Registries(configs, measured, clock, queue.add)
        echo = Echo(clock)
        cache = Cache(api, settings.watch_namespaces, queue.add_soon)
        cluster = KubeCluster(api, cache, clock, leader.may_write, echo)
        fetch = KeyedFetch(await _fetch(settings, api, stack), cluster.annotate_pod)
        config = EngineConfig(
            server_image=settings.server_image,
            traffic_ttl=settings.traffic_ttl.total_seconds(),
            look_interval=settings.look_interval.total_seconds(),
        )
        freezes = [freeze.freeze() for freeze in settings.freezes]
        fleet = Fleet(clock, settings.rollouts.limits(), freezes, queue.add)
        notifiers = [Notifier(target, clock, metrics.notified) for target in _targets(settings)]
        observers: list[Observer] = [logs.DecisionLog(), metrics, *notifiers]
        scraper, prober = Scraper(fetch), PodProber(fetch.patient)
        write_back = WriteBack(configs, measured, leader.may_write, metrics.tagged)
        approvals = Approvals(queue.add)
        reconciler = Reconciler(
            cluster,
            scraper,
            prober,
            registries,
            clock,
            config,
            observers,
            fleet,
            write_back,
            approvals,
            await _sources(settings, stack),
        )
        webhooks.lead(registries.nudge, approvals)
        watch = Watch(queue, echo, settings.watch_namespaces, kubeconfig())

        poll_interval = settings.poll_interval.total_seconds()
        _require(vitals, registries, echo, poll_interval)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(leader.hold())
            tasks.create_task(cache.run())
            await cache.synced()
            if settings.rollouts.limits():
                await _fill(fleet, queue, api, settings.watch_namespaces)
            tasks.create_task(registries.run(poll_interval))
            workers = queue.run_workers(settings.workers, metrics.counted(reconciler.reconcile))
            tasks.create_task(leader.resign_after(workers))
            tasks.create_task(watch.run(stop_on_signals))
            tasks.create_task(watch.resync())
            tasks.create_task(write_back.run())
            for notifier in notifiers:
                tasks.create_task(notifier.run())


def _require(vitals: health.Vitals, registries: Registries, echo: Echo, poll_interval: float) -> None:
    """What is asked of a leader's parts."""
    longest = health.POLLS * poll_interval + health.POLL_SECONDS
    vitals.require(registries.silence, longest, "the registries' poller has not moved for {:.0f} s")
    vitals.require(echo.silence, health.WATCH_SECONDS, "the watch has not shown a change of {:.0f} s ago")


async def _fill(fleet: Fleet, queue: WorkQueue, api: KubeApi, namespaces: Sequence[str]) -> None:
    """Before anything may begin. A pass over each tells those that are deleted before the watch stands."""
    async for owner in all_owners(api, namespaces):
        key = Key(owner["metadata"]["namespace"], owner["metadata"]["name"])
        fleet.note(key, read_status(owner))
        queue.add(key)


def _targets(settings: Settings) -> list[Target]:
    return [Target(it.url, frozenset(it.events), it.secret_file) for it in settings.notifications]


def _credentials(it: RegistrySettings | PrometheusSettings) -> Credentials:
    return Credentials(it.token_file, it.username_file, it.password_file, it.ca_file)


async def _sources(settings: Settings, stack: AsyncExitStack) -> Sources:
    servers = {
        name: await stack.enter_async_context(Prometheus(it.uri, _credentials(it)))
        for name, it in settings.prometheus.items()
    }
    return Sources({name: it.config() for name, it in settings.prometheus.items()}, servers)


def _webhooks(settings: Settings, clock: SystemClock) -> Webhooks:
    registries = {name: it.webhook_secret_file for name, it in settings.registries.items() if it.webhook_secret_file}
    return Webhooks(clock, registries, {name: it.approver() for name, it in settings.approvals.items()})


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
