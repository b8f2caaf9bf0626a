"""The metric of a shadow: how often the candidate's answer to a copied request differs from stable's.

A better model disagrees too, so it is shown, and judged only against a bound that the user has set. The test is the
analysis' own, on the candidate alone: a disagreement is a bad answer, and the bound is the objective.
"""

import math
from dataclasses import dataclass

from modelramp.api.shadow import Shadow
from modelramp.api.status import EvidenceStatus, Verdict
from modelramp.domain.counts import NOTHING, Counts, Unevenness, interval
from modelramp.domain.evidence import EvidenceState, Settings, update
from modelramp.domain.metric import Memory, report
from modelramp.domain.router import Tally
from modelramp.domain.turn import Turn

DISAGREEMENT = "disagreement"
SIDES = ("copies",)
LOOKS_TO_FAIL = 8
"""No look brings more than this part of what a Fail takes: one client with odd requests is no trend."""
NO_BOUND = 0.5


def judged(turn: Turn) -> bool:
    """Whether the spec sets a bound, and has a step in which it can be asked."""
    rollout = turn.snap.spec.rollout
    return rollout.shadow.max_disagreement is not None and any(step.shadow for step in rollout.steps)


def look(turn: Turn, before: EvidenceStatus | None, tally: Tally, alpha: float) -> list[EvidenceStatus]:
    """The evidence after this look; once nothing is copied any more, what the last one said."""
    if not turn.status.traffic.shadow:
        return [before] if before else []
    asked, memory = turn.snap.spec.rollout.shadow, Memory.load(before.state if before else "", SIDES)
    current = {"copies": {k: Counts(c.agree + c.disagree, c.disagree) for k, c in tally.counters.items()}}
    rules = rules_of(asked)
    if any(memory.noted.get(name, value) != value for name, value in rules.items()):
        memory = Memory(EvidenceState(), current)  # other rules: what was compared by the old ones says nothing
    fresh = interval(memory.counters["copies"], current["copies"], tally.born)
    uneven = Unevenness(int(memory.noted.get("looks", 0)), memory.noted.get("squares", 0.0)).add(fresh)
    settings = Settings(
        alpha=alpha,
        objective=asked.max_disagreement or NO_BOUND,
        most_per_look=-math.log(alpha) / LOOKS_TO_FAIL,
    )
    state = update(memory.state, fresh, NOTHING, uneven.index(memory.state.candidate + fresh), settings)
    noted = {**rules, "looks": uneven.looks, "squares": uneven.squares}
    evidence = report(turn, DISAGREEMENT, before, state, settings, fresh.requests)
    compared = Compared(state.candidate, sum(c.incomparable for c in tally.counters.values()))
    changes = {
        "stable_rate": None,
        "state": memory.advance(state, current, noted, turn.world.pods),
        "message": compared.told(evidence, asked, alpha),
    }
    if asked.max_disagreement is None:
        changes |= {"verdict": Verdict.INCONCLUSIVE, "requests_needed": None, "seconds_needed": None}
    return [evidence.model_copy(update=changes)]


def rules_of(asked: Shadow) -> dict[str, float]:
    """What the counts and the test depend on."""
    return {
        "tolerance": asked.tolerance,
        "maskOverlap": asked.mask_overlap,
        "bound": asked.max_disagreement or 0.0,
    }


@dataclass(frozen=True)
class Compared:
    """Answers compared, those among them that differ, and how many have no form that can be compared."""

    answers: Counts
    incomparable: int

    def told(self, evidence: EvidenceStatus, asked: Shadow, alpha: float) -> str:
        seen = f"{self.answers.bad} of {self.answers.requests} answers differ from stable's"
        if self.answers.requests:
            seen += f" ({percent(self.answers.rate)})"
        if self.incomparable:
            seen += f", {self.incomparable} can't be compared"
        if asked.max_disagreement is None:
            return f"{seen}; no bound is set"
        bound, confidence = percent(asked.max_disagreement), f"with confidence {100 * (1 - alpha):.4g} %"
        match evidence.verdict:
            case Verdict.FAIL:
                late = "" if self.answers.rate > asked.max_disagreement else " of late"
                return f"{seen}: over the bound of {bound}{late} {confidence}"
            case Verdict.PASS:
                return f"{seen}: below the bound of {bound} {confidence}"
        needed = evidence.requests_needed or "too many"
        return f"{seen}: the bound of {bound} is not decided; {needed} more that agree would pass"


def percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
