"""Ctrl-C and SIGTERM, which end a command: heard at its next step, or unheard where it puts things in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

SIGNAL_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
TERMINATION_SIGNALS = tuple(SIGNAL_NAMES)
GRACE_SECONDS = 20  # seconds that a step may take after the signal; then the command ends where the last one was saved


@contextmanager
def use_handlers(handlers: Mapping[int, Any], after: Any = None) -> Iterator[None]:
    """Have signals handled so meanwhile, and then as before, or as `after` says; other threads than the main need none.

    The main thread alone hears signals, and alone may say what becomes of them.
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
    """Let neither cut short what is done meanwhile."""
    return use_handlers(dict.fromkeys(TERMINATION_SIGNALS, signal.SIG_IGN))


class StopRequest:
    """Hold the signal that has asked a command to end once its step is saved, None before."""

    def __init__(self) -> None:
        self.asked: int | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take note of a first signal; end at once at a second, and when the time of grace is over."""
        if self.asked is not None:
            self.end()
        self.asked = number
        told = f"{SIGNAL_NAMES[signal.Signals(number)]}: ends once this step is saved; again: at once\n"
        with suppress(OSError):
            os.write(2, told.encode())  # print may be at work where the signal came
        signal.alarm(GRACE_SECONDS)

    def end(self) -> NoReturn:
        """Raise what the signal stands for: KeyboardInterrupt, or SystemExit with its exit code."""
        signal.alarm(0)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.asked or signal.SIGTERM))

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Take the place of the handlers of Ctrl-C and SIGTERM; only the main thread may, others go without."""
        handlers: dict[int, Any] = dict.fromkeys(TERMINATION_SIGNALS, self.hear)
        handlers[signal.SIGALRM] = lambda number, frame: self.end()
        with use_handlers(handlers):
            try:
                yield
            finally:
                signal.alarm(0)
