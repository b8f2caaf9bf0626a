"""The outcome of a run: in words, as JSON for machines, and as one HTML page with the picture of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape

from .answers import by_version, tally
from .measures import Harm
from .picture import Moment, draw
from .story import Story
from .watch import World

TITLES = {
    1: "a fair linear model (scikit-learn)",
    2: "a better one, a small neural network (ONNX)",
    3: "the same, failing on the blackest images",
    4: "one that never finishes its warm-up",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } svg { width: 100%; height: auto }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
.no { color: #b00020; font-weight: 600 } .dim { color: #666 }
"""


@dataclass(frozen=True)
class Outcome:
    """A finished story. `settings`: which settings of the rollout were shortened, in words."""

    story: Story
    world: World
    settings: str

    def words(self) -> str:
        """What happened, sentence by sentence."""
        verdict = "The story held." if self.story.held else "THE STORY DID NOT HOLD."
        lines = [f"  {'✓' if check.held else '✗'} {check.claim}" for check in self.story.checks]
        if self.story.harm is not None:
            lines.append(f"  {_harm(self.story.harm)}")
        lines.append(f"  {self._clients()}")
        return "\n".join([verdict, *lines])

    def json(self) -> str:
        """Figures only; keys are stable, as tests read them."""
        total = tally(self.world.answers)
        harm, sides = self.story.harm, by_version(self.world.answers)
        document = {
            "held": self.story.held,
            "checks": [asdict(check) for check in self.story.checks],
            "answers": total.answers,
            "failed": total.failed,
            "caught": total.caught,
            "retries": total.retries,
            "shares": [asdict(share) for share in self.story.shares],
            "harm": asdict(harm) | {"seconds": harm.seconds} if harm else None,
            "accuracy": {version: tally(given).accuracy for version, given in sides.items()},
            "errors": sorted({answer.error for answer in self.world.answers if answer.error})[:20],
            "status": json.loads(self.world.status.model_dump_json(by_alias=True)),
        }
        return json.dumps(document, indent=2) + "\n"

    def html(self) -> str:
        """One page that needs nothing else."""
        checks = "".join(
            f"<tr><td>{'✓' if check.held else '<span class=no>✗</span>'}</td><td>{escape(check.claim)}</td></tr>"
            for check in self.story.checks
        )
        events = "".join(
            f"<tr><td class=dim>{_clock(it.at)}</td><td>{escape(it.reason)}</td><td>{escape(it.message)}</td></tr>"
            for it in self.world.events
        )
        harm = f"<p>{escape(_harm(self.story.harm))}</p>" if self.story.harm else ""
        return (
            f"<!doctype html><meta charset=utf-8><title>Modelramp's demo</title><style>{STYLE}</style>"
            f"<h1>Four versions of a model, one alias</h1>"
            f"<p>The held-out handwritten digits that scikit-learn ships, sent to one Service without a pause "
            f"while the alias <code>prod</code> moved. Settings {escape(self.settings)}</p>"
            f"{draw(self.world.answers, self._moments())}"
            f"<h2>What was expected, and came</h2><table>{checks}</table>{harm}<p>{escape(self._clients())}</p>"
            f"<h2>What each version did</h2>{self._versions()}"
            f"<h2>What Kubernetes was told</h2><table>{events}</table>"
        )

    def _clients(self) -> str:
        total = tally(self.world.answers)
        return (
            f"Clients: {total.answers:,} answers, {total.failed} failed, {total.caught} given by stable in the "
            f"candidate's place, {total.retries} idle connections replaced."
        )

    def _versions(self) -> str:
        rows = [
            f"<tr><td>{version}</td><td>{escape(TITLES.get(version, ''))}</td><td>{len(given):,}</td>"
            f"<td>{100 * (tally(given).accuracy or 0):.1f} %</td></tr>"
            for version, given in by_version(self.world.answers).items()
        ]
        head = "<tr><th>version</th><th></th><th>answers</th><th>right</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"

    def _moments(self) -> list[Moment]:
        moved = [Moment(at, f"alias → {version}") for version, at in self.story.moved.items()]
        status = self.world.status
        rejected = [Moment(it.at.timestamp(), f"{it.version} rejected") for it in status.rejected]
        ended = [it for it in status.history if it.action == "Promoted"]
        promoted = [Moment(it.at.timestamp(), f"{it.version} stable") for it in ended]
        return sorted([*moved, *rejected, *promoted], key=lambda moment: moment.at)


def _harm(harm: Harm) -> str:
    return (
        f"Version 3 was handed {harm.handed} requests and failed {harm.bad} of them; from its first bad answer to "
        f"weight 0 in force it took {harm.seconds:.1f} s."
    )


def _clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S")
