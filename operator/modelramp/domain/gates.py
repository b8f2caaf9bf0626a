"""The gates before any request: what is still to be asked, and what the answers so far mean for the attempt.

A gate that has passed is kept in status and not asked again, so that a restart repeats nothing. One that fails ends
the attempt. One that waits (a tag not set yet, a registry or pod that does not answer) holds it, and rejects nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from modelramp.api.gates import Gates, Inputs, MetricGate, TagGate
from modelramp.api.status import GateState, GateStatus, Phase
from modelramp.domain import gate_rules
from modelramp.domain.findings import Questions, Served, SmokeTest
from modelramp.domain.gate_rules import Outcome
from modelramp.domain.moves import NO_TIME, fail
from modelramp.domain.snapshot import Snapshot
from modelramp.domain.turn import Turn
from modelramp.domain.world import Resolved, Revision, Unreachable, World

GATED = (Phase.PENDING, Phase.GATING)
LONGEST_MESSAGE = 400

Answer = TypeVar("Answer", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Gate:
    name: str
    wanted: MetricGate | TagGate | Inputs | SmokeTest

    @property
    def hash(self) -> str:
        """Tells what is asked: an edited gate is another one."""
        return hashlib.sha256(f"{self.name}\0{self.wanted!r}".encode()).hexdigest()[:8]


def listed(gates: Gates) -> list[Gate]:
    """All gates of the spec, the cheap ones first."""
    found = [Gate(f"metric {m.name}", m) for m in gates.metrics]
    found += [Gate(f"tag {t.name}", t) for t in gates.tags]
    if gates.inputs is Inputs.COMPATIBLE:
        found.append(Gate("inputs", gates.inputs))
    if gates.smoke.example:
        found.append(Gate("smoke example", SmokeTest(latency=gates.smoke.latency)))
    for index, it in enumerate(gates.smoke.examples):
        test = SmokeTest(it.input, it.expect, it.tolerance, gates.smoke.latency)
        found.append(Gate(f"smoke examples[{index}]", test))
    return found


def questions(snap: Snapshot) -> Questions:
    """What is to be asked before the next decision: only what gates need that have not passed, while they are shut."""
    candidate, target = snap.status.candidate, snap.target
    if candidate is None or candidate.direct or snap.status.phase not in GATED or snap.spec.suspend:
        return Questions()
    if resting(snap) or (target is not None and target.revision != candidate.revision):
        return Questions()
    done = {gate.hash for gate in candidate.gates if gate.state is GateState.PASSED}
    left = [gate for gate in listed(snap.spec.rollout.gates) if gate.hash not in done]
    wanted = [gate.wanted for gate in left]
    it = snap.world.revisions.get(candidate.revision)
    stable = snap.world.revisions.get(snap.status.stable.revision) if snap.status.stable else None
    metrics = [w for w in wanted if isinstance(w, MetricGate)]
    compared = any(m.not_worse_than_stable_by is not None for m in metrics)
    ours, theirs = _served(snap.world, it), _served(snap.world, stable)
    smoke = next(((g.hash, g.wanted) for g in left if isinstance(g.wanted, SmokeTest)), None)
    heard = isinstance(snap.resolution, Resolved)
    return Questions(
        metrics=it.model if it and metrics and heard else None,
        stable_metrics=stable.model if stable and compared and heard else None,
        tags=it.model if it and heard and any(isinstance(w, TagGate) for w in wanted) else None,
        inputs=ours if theirs and Inputs.COMPATIBLE in wanted else None,
        stable_inputs=theirs if ours and Inputs.COMPATIBLE in wanted else None,
        smoke=(*smoke, ours) if smoke and ours else None,
    )


def resting(snap: Snapshot) -> bool:
    """A first revision that has failed a gate is asked again, but not all the time."""
    candidate = snap.status.candidate
    if candidate is None or candidate.asked_at is None or snap.status.phase is not Phase.PENDING:
        return False
    failed = any(gate.state is GateState.FAILED for gate in candidate.gates)
    return failed and candidate.asked_at <= snap.now < candidate.asked_at + snap.policy.look_interval


def _served(world: World, revision: Revision | None) -> Served | None:
    """By the first ready pod, if there is one."""
    if revision is None:
        return None
    ready = [pod for pod in world.pods_of(revision.hash) if pod.ready]
    return Served(min(ready, key=lambda pod: pod.name), revision.model.name) if ready else None


def failed(turn: Turn) -> bool:
    """Takes the answers into status. A gate that fails rejects the candidate; the first revision, which nobody could
    answer for, is kept from serving instead, and asked again. What served before needs no gates."""
    if turn.candidate.direct:
        return False
    if resting(turn.snap):
        shut = next(gate for gate in turn.candidate.gates if gate.state is GateState.FAILED)
        _hold(turn, shut.reason, f"gate {shut.name}: {shut.message}")
        return True
    now = _take(turn)
    wrong = next((gate for gate in now if gate.state is GateState.FAILED), None)
    if wrong is None:
        return False
    message = f"gate {wrong.name}: {wrong.message}"
    if turn.status.phase is Phase.GATING:
        fail(turn, wrong.reason, message)
    else:
        turn.set(candidate=turn.candidate.model_copy(update={"asked_at": turn.now}))
        _hold(turn, wrong.reason, message)
    return True


def begun(turn: Turn) -> None:
    """Lists them in the very status that begins an attempt, with the answers of those for which nothing is asked."""
    if not turn.candidate.direct:
        _take(turn)


def _take(turn: Turn) -> list[GateStatus]:
    """The answers into status; a gate that has passed is not asked again."""
    kept = {gate.hash: gate for gate in turn.candidate.gates if gate.state is GateState.PASSED and gate.hash}
    now = [kept.get(gate.hash) or _judged(turn, gate) for gate in listed(turn.snap.spec.rollout.gates)]
    turn.set(candidate=turn.candidate.model_copy(update={"gates": now}))
    if any(gate.state is GateState.PASSED and gate.hash and gate.hash not in kept for gate in now):
        turn.wake_in(NO_TIME)
        if all(gate.state is GateState.PASSED for gate in now):
            turn.tell("GatePassed", f"version {turn.candidate.version}: {', '.join(gate.name for gate in now)}")
    return now


def waiting(turn: Turn) -> bool:
    """Whether a gate is still shut. The pods are there, so no deadline counts meanwhile."""
    left = next((gate for gate in turn.candidate.gates if gate.state is GateState.WAITING), None)
    if left is None:
        return False
    turn.set(candidate=turn.candidate.model_copy(update={"waiting_since": None}))
    turn.held = True
    _hold(turn, left.reason, f"gate {left.name}: {left.message}")
    return True


def _hold(turn: Turn, reason: str, message: str) -> None:
    if reason not in (turn.status.reason, "Gating"):
        turn.tell(reason, message, warning=reason != "AwaitingTag")
    turn.say(reason, message)
    turn.wake_in(turn.snap.policy.look_interval)


def _judged(turn: Turn, gate: Gate) -> GateStatus:
    outcome = _judge(turn, gate)
    message = outcome.message[:LONGEST_MESSAGE]
    comparing = isinstance(gate.wanted, MetricGate | Inputs)
    kept = "" if comparing and turn.candidate.whole else gate.hash  # asked again once stable is back
    return GateStatus(name=gate.name, state=outcome.state, reason=outcome.reason, message=message, hash=kept)


def _judge(turn: Turn, gate: Gate) -> Outcome:
    found, down = turn.snap.findings, turn.candidate.whole and not turn.world.ready(turn.stable_revision)
    alone = turn.status.stable is None or down
    match gate.wanted:
        case MetricGate() as wanted:
            ours, theirs = _or_silent(turn, found.metrics), _or_silent(turn, found.stable_metrics)
            return gate_rules.metric(wanted, ours, theirs, alone=alone)
        case TagGate() as wanted:
            return gate_rules.tag(wanted, _or_silent(turn, found.tags))
        case SmokeTest() as wanted:
            return gate_rules.smoke(wanted, found.smoke.get(gate.hash))
    return gate_rules.inputs(found.inputs, found.stable_inputs, alone=alone)


def _or_silent(turn: Turn, found: Answer | Unreachable | None) -> Answer | Unreachable | None:
    """What was found; or, where nothing was asked because the registry is known not to answer, that."""
    if found is None and isinstance(turn.snap.resolution, Unreachable):
        return turn.snap.resolution
    return found
