"""Prometheus text as PodMetrics. Series that docs/contract.md does not name are ignored.

The histogram of service times is most of a busy pod's text. It is read line by line here: the lines of one series
differ in their bound and value only, so its labels are parsed once.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf, isfinite
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from modelramp.domain.world import PodMetrics, SplitCounts

SPLIT_REQUESTS = "modelramp_split_requests_total"
PREDICTIONS = "modelramp_predictions_total"
SERVICE_BUCKET = "modelramp_split_service_seconds_bucket{"
SHADOW_ANSWERS = "modelramp_shadow_answers_total"
SERVICE = {"candidate": "candidate_service", "stable": "stable_service", "shadow": "shadow_service"}
CLASSES = {"candidate": "candidate_classes", "stable": "stable_classes"}
OUTCOMES = {
    ("candidate", "ok"): "candidate_ok",
    ("candidate", "bad"): "candidate_bad",
    ("candidate", "slow"): "candidate_bad",
    ("candidate", "neutral"): "candidate_neutral",
    ("candidate", "error"): "candidate_error",
    ("candidate", "skipped"): "candidate_skipped",
    ("shadow", "ok"): "shadow_ok",
    ("shadow", "bad"): "shadow_bad",
    ("shadow", "slow"): "shadow_bad",
    ("shadow", "error"): "shadow_error",
    ("shadow", "skipped"): "shadow_skipped",
    ("stable", "ok"): "stable_ok",
    ("stable", "bad"): "stable_bad",
    ("stable", "refused"): "stable_refused",
}
RESULTS = frozenset({"agree", "disagree", "incomparable"})
GAUGES = {
    "modelramp_split_version": "split_version",
    "modelramp_traffic_generation": "generation",
    "modelramp_traffic_weight": "weight",
    "modelramp_traffic_shadow": "shadow",
    "process_start_time_seconds": "started",
    "modelramp_bad_window_seconds": "bad_seconds",
    "modelramp_bad_window_sum": "bad_sum",
    "modelramp_bad_window_squares": "bad_squares",
    "modelramp_failed_window_sum": "failed_sum",
    "modelramp_failed_window_squares": "failed_squares",
}
WHOLE = frozenset({"split_version", "generation", "weight", "shadow"})
LE = re.compile(r'[{,]le="([^"]*)"')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def pod_metrics(text: str) -> PodMetrics:
    """Raises ValueError for text that is not Prometheus', or counts that no counter can have."""
    lines = text.splitlines()
    gauges: dict[str, float] = {}
    splits: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    for sample in _samples(lines):
        value = possible(sample.name, sample.value)
        if sample.name in GAUGES:
            field = GAUGES[sample.name]
            gauges[field] = int(value) if field in WHOLE else value
            continue
        if sample.name == PREDICTIONS:
            _add_prediction(splits, sample.labels, int(value))
            continue
        field = _counted(sample)
        if field:
            splits[sample.labels.get("salt", "")][field] += int(value)
    gauges.setdefault("split_version", 1 if "generation" in gauges else 0)  # it was not told with the first format
    for part in ("sum", "squares"):  # an older server has its refusals among what is bad
        gauges.setdefault(f"failed_{part}", gauges.get(f"bad_{part}", 0.0))
    for (salt, side), histogram in _service_times(lines).items():
        splits[salt][SERVICE[side]] = histogram
    return PodMetrics(splits={salt: SplitCounts(**fields) for salt, fields in splits.items()}, **gauges)  # type: ignore[arg-type]


def _add_prediction(splits: dict[str, dict[str, Any]], labels: Mapping[str, str], count: int) -> None:
    """Summed over targets; of sides that are known."""
    field, name = CLASSES.get(labels.get("side", "")), labels.get("class", "")
    if field is not None:
        counts = splits[labels.get("salt", "")].setdefault(field, {})
        counts[name] = counts.get(name, 0) + count


def _counted(sample: Sample) -> str:
    """The field of SplitCounts that a sample adds to; "" for what this release does not know."""
    if sample.name == SHADOW_ANSWERS:
        result = sample.labels.get("result", "")
        return result if result in RESULTS else ""
    return OUTCOMES.get((sample.labels.get("side", ""), sample.labels.get("outcome", "")), "")


def possible(name: str, value: float) -> float:
    if not isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value}")
    return value


def _samples(lines: Iterable[str]) -> Iterable[Sample]:
    """The contract's counters and gauges; other lines are not even parsed."""
    wanted = (SPLIT_REQUESTS, SHADOW_ANSWERS, PREDICTIONS, *GAUGES)
    chosen = "\n".join(line for line in lines if line.startswith(wanted))
    for family in text_string_to_metric_families(chosen + "\n"):
        yield from family.samples


def _service_times(lines: Iterable[str]) -> Mapping[tuple[str, str], Mapping[float, int]]:
    """Histograms by salt and side, summed over targets."""
    found: dict[tuple[str, str], dict[float, int]] = {}
    series: dict[tuple[str, str], dict[float, int] | None] = {}
    for line in lines:
        if not line.startswith(SERVICE_BUCKET):
            continue
        labels, _, value = line.rpartition("} ")
        bound = LE.search(labels)
        if bound is None:
            raise ValueError(f"a bucket without bound: {line[:200]}")
        rest = labels[: bound.start()], labels[bound.end() :]
        if rest not in series:
            series[rest] = _histogram(found, dict(LABEL.findall(labels)))
        histogram = series[rest]
        if histogram is not None:
            le = float(bound[1])
            histogram[le] = histogram.get(le, 0) + int(possible(SERVICE_BUCKET, float(value)))
    for histogram in found.values():
        counts = [count for _, count in sorted(histogram.items())]
        if inf not in histogram or counts != sorted(counts):
            raise ValueError("a histogram of service times that does not add up")
    return found


def _histogram(found: dict[tuple[str, str], dict[float, int]], labels: Mapping[str, str]) -> dict[float, int] | None:
    """The histogram that a series with these labels counts into; None for a side that nobody knows."""
    side = labels.get("side", "")
    return found.setdefault((labels.get("salt", ""), side), {}) if side in SERVICE else None
