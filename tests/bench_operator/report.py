"""A run as a table for people."""

from typing import Any

PARTS = ("settle", "rest", "promote")


def table(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    head = f"{figures['objects']} ModelDeployments; {machine['cpus']} CPUs, 1-minute load"
    lines = [
        f"{head} {machine['load_before']:.1f} before, {machine['load_after']:.1f} after",
        "",
        "| | settled from nothing | at rest | promoted to version 2 |",
        "|---|---|---|---|",
        _row(figures, "seconds", "seconds"),
        _row(figures, "operator's CPU seconds", "cpu_seconds"),
        _row(figures, "its memory, MiB (now)", "resident_mib"),
        _row(figures, "its memory, MiB (peak so far)", "peak_mib"),
        _sums(figures, "passes", "passes"),
        _sums(figures, "API writes", "writes"),
        "",
        f"holds in the promotion: {figures['promote']['holds_seconds']} s",
        f"at rest: writes {figures['rest']['audited_writes']}, {figures['rest']['searches']} searches of the registry, "
        f"polled every {figures['rest']['poll_interval']} s",
    ]
    return "\n".join(lines)


def _row(figures: dict[str, Any], title: str, name: str) -> str:
    return f"| {title} | " + " | ".join(f"{figures[part][name]:g}" for part in PARTS) + " |"


def _sums(figures: dict[str, Any], title: str, name: str) -> str:
    return f"| {title} | " + " | ".join(f"{sum(figures[part][name].values()):,}" for part in PARTS) + " |"
