"""How many threads torch spreads a forward over. OpenMP keeps the number for each calling thread: one that was not told
takes all CPUs of the machine, whatever another thread has set."""

import threading

import torch


class TorchThreads:
    """A number for all threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._told = threading.local()

    def use(self, count: int) -> None:
        """For all forwards from now on."""
        self._count = count

    def tell(self) -> None:
        """Before a forward, on the thread that runs it."""
        if getattr(self._told, "count", 0) != self._count:
            self._told.count = self._count
            torch.set_num_threads(self._count)
