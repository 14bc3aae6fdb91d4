"""Progress with rate and time left: a bar on a terminal, after two seconds; elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

_DELAY = 2  # seconds before a bar is shown
_LINE_SECONDS = 30  # between two lines where standard error is no terminal
_is_on: ContextVar[bool] = ContextVar("progress", default=True)


@contextmanager
def use_progress(is_on: bool) -> Iterator[None]:
    """Allow or suppress all bars inside a `with`."""
    token = _is_on.set(is_on)
    try:
        yield
    finally:
        _is_on.reset(token)


class _Lines:
    """What bars write to where standard error is no terminal: lines at intervals, which nested bars share."""

    last: float | None = None  # time of the last line, or of the first bar

    def write(self, text: str) -> None:
        """Print the state of a bar as a line if the last one is long enough ago."""
        now, line = time.monotonic(), text.replace("\x1b[A", "").strip()
        self.last = now if self.last is None else self.last
        if line and now - self.last >= _LINE_SECONDS:
            self.last = now
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: a line is flushed when it is printed."""


_lines = _Lines()


def open_bar(what: str, total: int | None, unit: str = "image", done: int = 0) -> tqdm[Any]:
    """Return a bar on standard error, for a `with`; `update` advances it. Without a terminal it prints lines."""
    from tqdm import tqdm  # imported here because commands that show no bar start faster without it

    tqdm.monitor_interval = 0  # no thread beside it, which a fork would copy: each update looks at the clock instead
    shape: dict[str, Any] = {"file": sys.stderr, "delay": _DELAY, "dynamic_ncols": True}
    if not sys.stderr.isatty():
        counts = "{n_fmt}" if total is None else "{n_fmt} of {total_fmt}, {remaining} left"
        shape = {"file": _lines, "bar_format": "{desc}: " + counts}
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        initial=done,
        disable=not _is_on.get(),
        leave=False,
        miniters=1,
        **shape,
    )


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "image") -> Iterator[T]:
    """Yield the items while a bar counts those that are done; their number is taken from them unless it is given."""
    known = len(items) if total is None and isinstance(items, Sized) else total
    with open_bar(what, known, unit) as bar:
        for item in items:
            yield item
            bar.update()


def clear_bars(file: Any) -> AbstractContextManager[Any]:
    """Remove the bars from a terminal inside a `with`, in which lines are printed to `file`."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file)
