"""Ctrl-C and SIGTERM: handled at the end of the current step, or ignored during cleanup."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNAL_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
TERMINATION_SIGNALS = tuple(SIGNAL_NAMES)
GRACE_SECONDS = 20  # for the current step; after that, the command stops at the last saved step


@contextmanager
def use_handlers(handlers: Mapping[int, Any], after: Any = None) -> Iterator[None]:
    """Install signal handlers temporarily, then restore the earlier ones or install `after`.

    Does nothing outside the main thread, which alone receives signals and may set handlers.
    """
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if after is None else after)


def ignore_termination() -> AbstractContextManager[None]:
    """Ignore Ctrl-C and SIGTERM within a context."""
    return use_handlers(dict.fromkeys(TERMINATION_SIGNALS, signal.SIG_IGN))


@contextmanager
def block_termination() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in processes started within a context.

    They inherit it, so there is no moment at which they receive these signals; this process receives them after it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Signal that asked a command to stop after saving its current step; None until then.

    Processes that are started with it see the signal too.
    """

    def __init__(self) -> None:
        self._asked = multiprocessing.RawValue("i", 0)

    @property
    def asked(self) -> int | None:
        """Return the number of the signal."""
        return self._asked.value or None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; stop immediately at the second, or when the grace period is over."""
        if self.asked is not None:
            self.end()
        self._asked.value = number
        message = f"{SIGNAL_NAMES[signal.Signals(number)]}: stopping once this step is saved; repeat to stop at once\n"
        with suppress(OSError):
            os.write(2, message.encode())  # not print, which the signal may have interrupted
        signal.alarm(GRACE_SECONDS)

    def end(self) -> NoReturn:
        """Raise the signal's exception: KeyboardInterrupt, or SystemExit with its exit code."""
        signal.alarm(0)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.asked or signal.SIGTERM))

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Replace the handlers of Ctrl-C and SIGTERM temporarily; has no effect outside the main thread."""
        handlers: dict[int, Any] = dict.fromkeys(TERMINATION_SIGNALS, self.hear)
        handlers[signal.SIGALRM] = lambda number, frame: self.end()
        with use_handlers(handlers):
            try:
                yield
            finally:
                signal.alarm(0)
