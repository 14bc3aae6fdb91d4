"""Ctrl-C and SIGTERM, which end a command: heard at its next step, or unheard where it puts things in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
ENDING = tuple(NAMES)
GRACE = 20  # seconds that a step may take after the signal; then the command ends where the last one was saved


@contextmanager
def unheard() -> Iterator[None]:
    """Let neither cut short what is done meanwhile; only the main thread hears them, so others need nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Hold the signal that has asked a command to end once its step is saved, None before."""

    def __init__(self) -> None:
        self.asked: int | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take note of a first signal; end at once at a second, and when the time of grace is over."""
        if self.asked is not None:
            self.end()
        self.asked = number
        told = f"{NAMES[signal.Signals(number)]}: ends once this step is saved; again: at once\n"
        with suppress(OSError):
            os.write(2, told.encode())  # print may be at work where the signal came
        signal.alarm(GRACE)

    def end(self) -> NoReturn:
        """Raise what the signal stands for: KeyboardInterrupt, or SystemExit with its exit code."""
        signal.alarm(0)
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.asked or signal.SIGTERM))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of the handlers of Ctrl-C and SIGTERM; only the main thread may, others go without."""
        try:
            before = {number: signal.signal(number, self.hear) for number in ENDING}
            before[signal.SIGALRM] = signal.signal(signal.SIGALRM, lambda number, frame: self.end())
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)
