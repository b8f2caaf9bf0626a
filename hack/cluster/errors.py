"""The one error that is meant for the person at the terminal: it is shown without a traceback."""


class ClusterError(Exception):
    """What went wrong, where, and what to do about it, in a sentence or two."""
