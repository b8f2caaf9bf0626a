"""What a step gives the candidate: a share of the requests to answer, or copies of a share, answered to nobody."""

from dataclasses import dataclass

from modelramp.api.spec import Step
from modelramp.api.status import Status


@dataclass(frozen=True, order=True)
class Share:
    """Percent of the requests. A higher weight is more than any shadow."""

    weight: int = 0
    shadow: int = 0

    @property
    def load(self) -> int:
        """What the candidate must carry."""
        return max(self.weight, self.shadow)

    def __str__(self) -> str:
        return f"0 % of users, {self.shadow} % shadowed" if self.shadow else f"{self.weight} %"


def wanted(step: Step, held: Share) -> Share:
    """A pause keeps what is held."""
    return held if step.pause is not None else Share(step.weight or 0, step.shadow or 0)


def held(status: Status) -> Share:
    """What the split says now."""
    return Share(status.traffic.weight, status.traffic.shadow)


def in_hand(status: Status) -> Share:
    """What the step in hand wants."""
    return Share(status.step.weight, status.step.shadow) if status.step else Share()
