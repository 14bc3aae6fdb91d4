"""Save Results, each in a process beside what is computed meanwhile, and tell each once it is there."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from avatar_bench.console.signals import TERMINATION_SIGNALS, ignore_termination
from avatar_bench.console.terminal import print_line
from avatar_bench.data.file_names import format_names
from avatar_bench.errors import OutputError
from avatar_bench.results.result import Result

_MAX_PRINTED_WARNINGS = 3
_MAX_PROCESSES = 2  # processes that write: a third would hold one more Result in memory, and gains nothing
_GRACE_SECONDS = 5  # seconds for a process to take away what it has half written


@dataclass
class _PendingResult:
    result: Result
    folder: Path
    is_saved: bool
    process: BaseProcess | None = None

    @property
    def is_waiting(self) -> bool:
        return not self.is_saved and self.process is None

    @property
    def is_writing(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> None:
        """Begin a process that saves the Result, where the machine has one to give.

        It is forked: it needs no copy of the Result, which may hold what cannot be pickled, and it computes nothing in
        threads, so it does not miss those that a fork leaves behind.
        """
        if sys.platform != "linux" or multiprocessing.current_process().daemon:
            return
        process = multiprocessing.get_context("fork").Process(
            target=_write, args=(self.result, self.folder), daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)  # until it has handlers of its own
        try:
            with suppress(OSError):
                process.start()
                self.process = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ResultWriter:
    """Save Results, and tell them in the order in which they were added.

    In a `with`, all are saved and told at its end, be it an error's. Ctrl-C and SIGTERM leave out what is not saved.
    Then come the warnings, each once with the runs and blocks that gave it, or where they are many, their number.
    """

    def __init__(self) -> None:
        self.told: dict[Path, bool] = {}  # each folder, and whether its Result was there already
        self._entries: deque[_PendingResult] = deque()
        self._warnings: dict[str, dict[str, list[str]]] = {}  # by text, the blocks of each run
        self._leakage: set[str] = set()  # the warnings that void metrics

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self.finish()
            else:
                told = "what is told above is saved, and the same command, without again=true, makes the rest"
                print_line(f"interrupted: {told}", file=sys.stderr)
        finally:
            self._print_warnings()
            self._stop_processes()

    def add(self, result: Result, folder: Path, there: bool = False) -> None:
        """Take a Result to save; `there` says that it is saved already, and only to be told."""
        self._entries.append(_PendingResult(result, folder, there))
        while self._entries and not (self._entries[0].is_waiting or self._entries[0].is_writing):
            self._finish_first()

    def begin(self) -> None:
        """Begin to write what was added, as there is something to compute meanwhile.

        Hence the last Result of a command, or its only one, is saved without a process.
        """
        for entry in [entry for entry in self._entries if entry.is_waiting]:
            while sum(other.is_writing for other in self._entries) >= _MAX_PROCESSES:
                self._finish_first()
            entry.start()
        while self._entries and not self._entries[0].is_writing:
            self._finish_first()

    def finish(self) -> None:
        """Have all saved and told; raise OutputError where one cannot be written."""
        while self._entries:
            self._finish_first()

    def _finish_first(self) -> None:
        """Wait until the first Result is saved, and tell it; what a process could not write fails here once more."""
        entry = self._entries[0]
        if entry.process is not None:
            entry.process.join()
        self._entries.popleft()
        if not entry.is_saved and (entry.process is None or entry.process.exitcode):
            try:
                entry.result.save(entry.folder)
            except OSError as error:
                self._stop_processes()
                reason = f"{entry.folder} cannot be written: {error.strerror or error}."
                raise OutputError(reason, "Give another place: out=DIR") from error
        entry.result.figures.clear()  # they are the larger part of it
        run = str(entry.result.provenance.get("run", entry.folder.parents[2]))
        self._leakage.update(entry.result.provenance.get("leakage", ()))
        for warning in entry.result.warnings:
            self._warnings.setdefault(warning, {}).setdefault(run, []).append(entry.folder.name)
        self.told[entry.folder] = entry.is_saved
        print_line(f"{'already there: ' * entry.is_saved}{entry.folder}: {_summarise(entry.result)}")

    def _print_warnings(self) -> None:
        """Print each warning once with the runs and blocks that gave it; of many, those of leakage and the number."""
        few = len(self._warnings) <= _MAX_PRINTED_WARNINGS
        printed = {text: found for text, found in self._warnings.items() if few or text in self._leakage}
        for text, found in printed.items():
            runs: dict[str, list[str]] = {}
            for run, blocks in found.items():
                runs.setdefault(", ".join(dict.fromkeys(blocks)), []).append(run)
            for theirs, names in runs.items():
                print_line(f"warning: {format_names(names, 3)}: {theirs}: {text}", file=sys.stderr)
        if left := len(self._warnings) - len(printed):
            others = " other" if printed else ""
            print_line(f"{left}{others} warnings: see the report, or metrics.json of each block", file=sys.stderr)

    def _stop_processes(self) -> None:
        """End the processes that still write; each takes its half-written folder away."""
        processes = [entry.process for entry in self._entries if entry.process is not None]
        self._entries.clear()
        with ignore_termination():
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(_GRACE_SECONDS)
                process.kill()
                process.join()


def _write(result: Result, folder: Path) -> None:
    gc.freeze()  # what the evaluation holds is not for this process to look through, or to free
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the evaluation ends this process
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)
    try:
        result.save(folder)
    except Exception:
        sys.exit(1)


def _exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _summarise(result: Result) -> str:
    """Say the first figure of a Result with its interval."""
    if not result.metrics:
        return f"on {result.set} (n = {result.n})"
    name, metric = next(iter(result.metrics.items()))
    if metric.value is None:
        return f"{name}: {metric.reason}"
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if metric.low is not None and metric.high is not None else ""
    return f"{name} {metric.value:.3f}{interval} on {result.set} (n = {result.n})"
