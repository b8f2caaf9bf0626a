"""The circuit breaker: after a run of failures nothing is handed over for a while, then one request at a time.

So a hanging candidate can't exhaust stable. Pure: the time (monotonic seconds) comes from outside.
"""

from enum import Enum

RUN = 5
FIRST_REST = 1.0
LONGEST_REST = 30.0
PROBES = 3


class Admission(Enum):
    """Whether a request may be handed over, and as what."""

    REFUSED = "refused"
    FREE = "free"
    PROBE = "probe"


class Breaker:
    """Closed, open, or half open: one probe at a time, closed again after `PROBES` good ones."""

    def __init__(self) -> None:
        self._failures = 0
        self._rest = FIRST_REST
        self._resumes: float | None = None
        self._probing = False
        self._good_probes = 0

    @property
    def is_open(self) -> bool:
        """Whether it keeps requests back (half open included)."""
        return self._resumes is not None

    def admit(self, now: float) -> Admission:
        """Ask for one request; unless refused, `record` must follow."""
        if self._resumes is None:
            return Admission.FREE
        if now < self._resumes or self._probing:
            return Admission.REFUSED
        self._probing = True
        return Admission.PROBE

    def record(self, admission: Admission, failed: bool, now: float) -> None:
        """Take the result of an admitted request; one admitted before the breaker opened changes nothing."""
        if admission is Admission.PROBE:
            self._probing = False
            self._probe(failed, now)
        elif self._resumes is None:
            self._failures = self._failures + 1 if failed else 0
            if self._failures >= RUN:
                self._open(now)

    def _probe(self, failed: bool, now: float) -> None:
        if failed:
            self._rest = min(self._rest * 2, LONGEST_REST)
            self._open(now)
            return
        self._good_probes += 1
        if self._good_probes >= PROBES:
            self._resumes, self._failures, self._rest, self._good_probes = None, 0, FIRST_REST, 0

    def _open(self, now: float) -> None:
        self._resumes = now + self._rest
        self._good_probes = 0
