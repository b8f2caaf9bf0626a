"""How many threads torch spreads a forward over. OpenMP keeps the number for each calling thread, and one that was
not told may take all CPUs of the machine, whatever another has set: MKL asks OpenMP, not torch."""

import threading

import torch


class TorchThreads:
    """The number for all threads of the process."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._told = threading.local()
        self.tell()

    def use(self, count: int) -> None:
        """For all forwards from now on."""
        self._count = count

    def tell(self) -> None:
        """Before a forward, on the thread that runs it."""
        if getattr(self._told, "count", 0) != self._count:
            self._told.count = self._count
            torch.set_num_threads(self._count)
