"""Worker processes of loaders: only the main process reacts to Ctrl-C and SIGTERM, and it ends the workers."""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from avatar_bench.console.machine import trim_memory
from avatar_bench.console.signals import block_termination, ignore_termination


def make_worker_context() -> BaseContext | None:
    """Return the multiprocessing context of a loader; None, torch's default, where processes are not forked."""
    return _Context() if sys.platform == "linux" else None


class ManagedLoader(DataLoader[Any]):
    """Loader whose processes end before the interpreter does, even if an error still references them.

    multiprocessing would terminate them by a signal that they block, and wait forever.
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


# Registered after the imports of torch and multiprocessing, so it runs before their own exit handlers
atexit.register(ManagedLoader.end)


@contextmanager
def iterate_batches(loader: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Yield an iterator over a loader's batches, and end its processes on every exit path."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        # torch waits for the last reference, which a traceback may hold past the end of the command
        _shut_down(batches)


def _shut_down(batches: Any) -> None:
    with ignore_termination():
        getattr(batches, "_shutdown_workers", lambda: None)()


if sys.platform == "linux":

    class _Worker(multiprocessing.context.ForkProcess):
        """Process that blocks Ctrl-C and SIGTERM: torch would print a traceback for each process that receives them."""

        def start(self) -> None:
            with block_termination():
                super().start()

        def run(self) -> None:
            sys.excepthook = lambda *error: None  # a closed connection to the main process is expected
            super().run()

        def terminate(self) -> None:
            self.kill()

    class _Context(multiprocessing.context.ForkContext):
        Process = _Worker
