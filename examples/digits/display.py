"""What a person sees meanwhile: one refreshing display on a terminal, one line per change anywhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from . import figures
from .watch import Event, World

REST = 22  # lines of a terminal that are not for events
FIGURES_EVERY = 10.0  # seconds between two lines of figures in the plain log


class Display(Protocol):
    """Shows a world until it is left; `say` is for what the story itself has to tell."""

    def say(self, line: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(console: Console, world: World, settings: str) -> Display:
    return Screen(console, world, settings) if console.is_terminal else PlainLog(console, world, settings)


class Screen:
    """A refreshing display; what the story says scrolls by above it."""

    def __init__(self, console: Console, world: World, settings: str) -> None:
        self._console, self._world, self._settings = console, world, settings
        self._live = Live(self, console=console, refresh_per_second=3)

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __rich__(self) -> Panel:
        status, total = self._world.status, figures.clients(self._world)
        rows = Table.grid(padding=(0, 2))
        for label, value in (
            ("phase", f"{status.phase.value}  {status.reason}"),
            ("", status.message),
            ("weight", figures.weight(status)),
            ("verdict", figures.verdict(status)),
            ("clients", f"{total.answers:,} answers, {total.failed} failed; {total.caught} caught by stable"),
        ):
            rows.add_row(Text(label, style="dim"), Text(value, overflow="ellipsis", no_wrap=True))
        body = Group(Text(self._settings, style="dim"), "", self._sides(), "", rows, "", self._events())
        return Panel(body, title="digits@prod", border_style="cyan")

    def _sides(self) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("version", "role", "share", "accuracy", "answers", "errors in analysis"):
            table.add_column(column, justify="left" if column == "role" else "right")
        colours = {"stable": "green", "candidate": "yellow", "rejected": "red"}
        for side in figures.sides(self._world, time.time()):
            accuracy = f"{100 * side.accuracy:.1f} %" if side.accuracy is not None else ""
            cells = (str(side.version), side.role, f"{side.share:.1f} %", accuracy, f"{side.given:,}", side.errors)
            table.add_row(*cells, style=colours.get(side.role, "dim"))
        return table

    def _events(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for event in self._world.events[-max(3, self._console.height - REST) :]:
            style = "red" if event.kind == "Warning" else ""
            message = Text(event.message, overflow="ellipsis", no_wrap=True)
            table.add_row(Text(_clock(event.at), style="dim"), Text(event.reason, style=style), message)
        return table


class PlainLog:
    """For logs: a line per change of phase, reason or weight, per event, and figures now and then."""

    def __init__(self, console: Console, world: World, settings: str) -> None:
        self._console, self._world, self._settings = console, world, settings
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def say(self, line: str) -> None:
        self._print(line)

    def __enter__(self) -> Self:
        self._print(self._settings)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _print(self, line: str) -> None:
        self._console.print(f"{_clock(time.time())}  {line}", highlight=False, markup=False, soft_wrap=True)

    def _follow(self) -> None:
        changed, events, next_figures = self._changes(), self._fresh_events(), 0.0
        while not self._stopped.wait(0.3):
            changed()
            events()
            if time.monotonic() >= next_figures and self._world.answers:
                next_figures = time.monotonic() + FIGURES_EVERY
                self._print(self._figures())
        events()

    def _changes(self) -> Callable[[], None]:
        last: tuple[object, ...] = ()

        def tell() -> None:
            nonlocal last
            status = self._world.status
            now = (status.phase, status.reason, status.traffic.weight)
            if now != last and status.reason:
                last = now
                where = f"{status.phase.value} {status.traffic.weight} %"
                self._print(f"status   {where} {status.reason}: {status.message}")

        return tell

    def _fresh_events(self) -> Callable[[], None]:
        told = 0

        def tell() -> None:
            nonlocal told
            fresh: list[Event] = self._world.events[told:]
            told += len(fresh)
            for event in fresh:
                self._print(f"event    {event.kind} {event.reason}: {event.message}")

        return tell

    def _figures(self) -> str:
        parts = [
            f"v{side.version} ({side.role}) {side.share:.1f} %"
            + (f", {100 * side.accuracy:.1f} % right" if side.accuracy is not None else "")
            for side in figures.sides(self._world, time.time())
            if side.role != "rejected"
        ]
        total = figures.clients(self._world)
        counts = f"{total.answers:,} answers, {total.failed} failed, {total.caught} caught"
        return f"figures  {'; '.join(parts)}; {counts}"


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S")
