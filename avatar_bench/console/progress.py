"""Progress bars with rate and time left, on a terminal, for what takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

_DELAY = 2  # seconds before a bar is shown
_is_on: ContextVar[bool] = ContextVar("progress", default=True)


@contextmanager
def use_progress(is_on: bool) -> Iterator[None]:
    """Allow or suppress all bars inside a `with`."""
    token = _is_on.set(is_on)
    try:
        yield
    finally:
        _is_on.reset(token)


def open_bar(what: str, total: int | None, unit: str = "image", done: int = 0) -> tqdm[Any]:
    """Return a bar on standard error, for a `with`; `update` advances it. It is off where that is no terminal."""
    from tqdm import tqdm  # imported here because commands that show no bar start faster without it

    tqdm.monitor_interval = 0  # no thread beside it, which a fork would copy: each update looks at the clock instead
    is_off = not (_is_on.get() and sys.stderr.isatty())
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        initial=done,
        file=sys.stderr,
        disable=is_off,
        delay=_DELAY,
        leave=False,
        dynamic_ncols=True,
        miniters=1,
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
