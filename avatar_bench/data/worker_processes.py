"""Worker processes of loaders: the main process alone answers Ctrl-C and SIGTERM, and it ends them."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from avatar_bench.console.memory import trim_memory
from avatar_bench.console.signals import TERMINATION_SIGNALS, ignore_termination


def make_worker_context() -> BaseContext | None:
    """Give what makes the processes of a loader; None, torch's own, where processes are not forked."""
    return _Context() if sys.platform == "linux" else None


class ManagedLoader(DataLoader[Any]):
    """A loader whose processes end before the interpreter does, though an error may still hold on to them.

    multiprocessing would ask them to end by a signal that they do not hear, and wait for ever.
    """

    _running: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def _get_iterator(self) -> Any:
        if self.num_workers:
            trim_memory()
        batches = super()._get_iterator()
        self._running.add(batches)
        return batches

    @classmethod
    def end(cls) -> None:
        """End the processes of all loaders."""
        for batches in list(cls._running):
            _shut_down(batches)


atexit.register(
    ManagedLoader.end
)  # after the imports of torch and multiprocessing, hence before what they do at the end


@contextmanager
def iterate_batches(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """Give a loader's batches, and end its processes however this ends, before anything else is done."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        # torch does so when the last reference is gone, which a traceback may hold past the end of the command
        _shut_down(batches)


def _shut_down(batches: Any) -> None:
    with ignore_termination():
        getattr(batches, "_shutdown_workers", lambda: None)()


if sys.platform == "linux":

    class _Worker(multiprocessing.context.ForkProcess):
        """A process that is deaf to Ctrl-C and SIGTERM: torch would print a traceback for each that hears them."""

        def start(self) -> None:
            # a new process inherits what is blocked, so that there is no moment at which it hears
            before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def run(self) -> None:
            sys.excepthook = lambda *error: None  # that the main process has hung up is no news
            super().run()

        def terminate(self) -> None:
            self.kill()

    class _Context(multiprocessing.context.ForkContext):
        Process = _Worker
