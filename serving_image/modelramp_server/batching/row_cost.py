"""What a row takes: a moving average over forwards that had no lack of rows."""

WEIGHT = 0.1


class RowCost:
    """`seconds` for each row, by whatever clock they were measured."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def observe(self, seconds: float, rows: int, full: bool) -> None:
        """Learn from a forward. One that was not full says something only if it took less."""
        cost = seconds / rows
        if full or cost < self.seconds:
            self.seconds += WEIGHT * (cost - self.seconds)
