"""Prometheus text as PodMetrics. Series that docs/contract.md does not name are ignored."""

from collections import defaultdict
from collections.abc import Iterable
from math import isfinite

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from modelramp.domain.world import PodMetrics, SplitCounts

SPLIT_REQUESTS = "modelramp_split_requests_total"
OUTCOMES = {
    ("candidate", "ok"): "candidate_ok",
    ("candidate", "bad"): "candidate_bad",
    ("candidate", "slow"): "candidate_bad",
    ("candidate", "neutral"): "candidate_neutral",
    ("candidate", "error"): "candidate_error",
    ("candidate", "skipped"): "candidate_skipped",
    ("stable", "ok"): "stable_ok",
    ("stable", "bad"): "stable_bad",
}
GAUGES = {
    "modelramp_traffic_generation": "generation",
    "modelramp_traffic_weight": "weight",
    "process_start_time_seconds": "started",
    "modelramp_bad_window_seconds": "bad_seconds",
    "modelramp_bad_window_sum": "bad_sum",
    "modelramp_bad_window_squares": "bad_squares",
}
WHOLE = frozenset({"generation", "weight"})


def pod_metrics(text: str) -> PodMetrics:
    """Raises ValueError for text that is not Prometheus', or counts that no counter can have."""
    gauges: dict[str, float] = {}
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sample in _samples(text):
        if not isfinite(sample.value) or sample.value < 0:
            raise ValueError(f"{sample.name} is {sample.value}")
        if sample.name in GAUGES:
            field = GAUGES[sample.name]
            gauges[field] = int(sample.value) if field in WHOLE else sample.value
            continue
        field = OUTCOMES.get((sample.labels.get("side", ""), sample.labels.get("outcome", "")), "")
        if field:
            counts[sample.labels.get("salt", "")][field] += int(sample.value)
    return PodMetrics(splits={salt: SplitCounts(**fields) for salt, fields in counts.items()}, **gauges)  # type: ignore[arg-type]


def _samples(text: str) -> Iterable[Sample]:
    """The contract's samples; other lines are not even parsed: histograms of a busy pod are most of the text."""
    wanted = (SPLIT_REQUESTS, *GAUGES)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(wanted))
    for family in text_string_to_metric_families(lines + "\n"):
        yield from family.samples
