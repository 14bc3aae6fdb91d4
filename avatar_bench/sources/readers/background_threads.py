"""Background threads that do not delay the exit of an interrupted program."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def run_in_background(
    function: Callable[[Item], Made], items: Sequence[Item], workers: int, stop: threading.Event
) -> Iterator[Future[Made]]:
    """Run a function on each item in several threads; yield the finished futures in order, then set `stop`.

    The threads are daemons: unlike those of an executor, they do not make an interrupted program wait for a slow
    server.
    """
    futures: list[Future[Made]] = [Future() for _ in items]
    tasks, lock = iter(zip(items, futures, strict=True)), threading.Lock()

    def work() -> None:
        while not stop.is_set():
            with lock:
                task = next(tasks, None)
            if task is None:
                return
            try:
                task[1].set_result(function(task[0]))
            except BaseException as error:
                task[1].set_exception(error)

    for _ in range(min(workers, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for future in futures:
            future.exception()  # waits
            yield future
    finally:
        stop.set()
