"""The picture of a run: traffic share, errors and accuracy over time, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .answers import Answer
from .measures import BAD

COLOURS = {1: "#4477aa", 2: "#228833", 3: "#cc3311", 4: "#aa3377"}
SMOOTH = 5  # seconds over which rates and accuracy are taken
Series = npt.NDArray[np.float64]


class Moment(NamedTuple):
    """Something worth a line in the picture; `at` is seconds since the epoch."""

    at: float
    label: str


def draw(answers: Sequence[Answer], moments: Sequence[Moment]) -> str:
    """An SVG element; empty without answers."""
    if not answers:
        return ""
    from matplotlib.figure import Figure

    first = min(answer.sent for answer in answers)
    seconds = np.array([int(answer.done - first) for answer in answers])
    length = int(seconds.max()) + 1
    versions = sorted({answer.version for answer in answers if answer.version})

    def count(chosen: Sequence[bool]) -> Series:
        return np.bincount(seconds[np.array(chosen, bool)], minlength=length).astype(np.float64)

    given = {version: count([a.version == version for a in answers]) for version in versions}
    right = {version: count([a.version == version and a.correct for a in answers]) for version in versions}
    figure = Figure(figsize=(11, 8), layout="constrained")
    share, errors, accuracy = figure.subplots(3, 1, sharex=True)
    time = np.arange(length, dtype=np.float64)
    everything = np.maximum(count([True] * len(answers)), 1)
    _stack(share, time, {version: 100 * given[version] / everything for version in versions})
    _errors(errors, time, answers, count)
    for version in versions:
        lately = _window(given[version])
        known = np.where(lately >= 1, 100 * _window(right[version]) / np.maximum(lately, 1), np.nan)
        accuracy.plot(time, known, color=COLOURS.get(version), label=f"version {version}")
    accuracy.set(ylabel="right answers, %", xlabel="seconds of traffic", ylim=(80, 101))
    accuracy.legend(loc="lower right", frameon=False, ncols=4)
    _mark((share, errors, accuracy), [Moment(moment.at - first, moment.label) for moment in moments])
    return _svg(figure)


def _stack(axes: Any, time: Series, shares: dict[int, Series]) -> None:
    colours = [COLOURS.get(version, "#888888") for version in shares]
    axes.stackplot(time, *shares.values(), colors=colours, labels=[f"version {version}" for version in shares])
    axes.set(ylabel="share of answers, %", ylim=(0, 100))
    axes.legend(loc="lower left", frameon=True, ncols=4)


def _errors(axes: Any, time: Series, answers: Sequence[Answer], count: Any) -> None:
    """Of the candidate: bad answers of those it was handed. Of the clients: failures of all."""
    bad = _window(count([answer.net in BAD for answer in answers]))
    newest = _candidates(answers)
    handed = _window(count(newest)) + bad
    rate = np.where(handed >= 1, 100 * bad / np.maximum(handed, 1), np.nan)
    axes.plot(time, rate, color=COLOURS[3], label="candidate: bad answers, replaced by stable's")
    failed, all_answers = _window(count([a.failed for a in answers])), _window(count([True] * len(answers)))
    axes.plot(time, 100 * failed / np.maximum(all_answers, 1), color="black", label="clients: failed requests")
    axes.set(ylabel="errors, %", ylim=(-0.5, None))
    axes.legend(loc="upper left", frameon=False)


def _candidates(answers: Sequence[Answer]) -> list[bool]:
    """Answers by a version higher than the one that gives most in that second: the candidate's."""
    main: dict[int, dict[int, int]] = {}
    for answer in answers:
        counts = main.setdefault(int(answer.done), {})
        counts[answer.version] = counts.get(answer.version, 0) + 1
    most = {second: max(counts, key=lambda version: counts[version]) for second, counts in main.items()}
    return [answer.version > most[int(answer.done)] for answer in answers]


def _window(series: Series) -> Series:
    return np.convolve(series, np.ones(SMOOTH))[: len(series)]


def _mark(panels: Sequence[Any], moments: Sequence[Moment]) -> None:
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        for moment in moments:
            panel.axvline(max(moment.at, 0), color="#999999", linewidth=0.8, linestyle=":")
    for index, moment in enumerate(moments):
        panels[0].text(max(moment.at, 0), 102 + 7 * (index % 3), moment.label, fontsize=8, ha="left")


def _svg(figure: Any) -> str:
    page = io.StringIO()
    figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None})
    text = page.getvalue()
    return text[text.index("<svg") :]
