"""Background saving of Results, in processes of their own while evaluation goes on."""

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
from uuid import uuid4

from avatar_bench.console.signals import TERMINATION_SIGNALS, ignore_termination
from avatar_bench.console.terminal import format_names, print_line, print_note
from avatar_bench.errors import OutputError
from avatar_bench.evaluation.evaluation_log import list_external_sets, log_result
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Result, draw_figures, has_figures, redraw, remove_unfinished
from avatar_bench.results.view import ALL

_MAX_PRINTED_WARNINGS = 5
_MAX_PROCESSES = 2  # writing processes; a third would keep one more Result in memory without a gain
_SCALED = "scaled/"  # before the names of metrics after the temperature, which is what a user gets
_GRACE_SECONDS = 5  # time for a process to put an earlier Result back


@dataclass
class _PendingResult:
    result: Result
    folder: Path
    language: str
    is_saved: bool
    process: BaseProcess | None = None

    @property
    def is_done(self) -> bool:
        return self.is_saved and has_figures(self.folder, self.result.figures, self.language)

    @property
    def is_waiting(self) -> bool:
        return self.process is None and not self.is_done

    @property
    def is_writing(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> None:
        """Start a process that saves the Result, on Linux only.

        The process is forked: it needs no copy of the Result, which may not be picklable, and it computes nothing in
        threads, so threads lost in a fork do not matter.
        """
        if sys.platform != "linux" or multiprocessing.current_process().daemon:
            return
        process = multiprocessing.get_context("fork").Process(target=_write_in_process, args=(self,), daemon=True)
        # until it has installed its own handlers
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
        try:
            with suppress(OSError):
                process.start()
                self.process = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ResultWriter:
    """Writer that saves Results, with figures in one language, and prints a line for each, in the order of `add`.

    Those on external sets are logged; one writer serves one command.

    At the end of a `with` block all are saved and printed, also after an error. Ctrl-C and SIGTERM drop unsaved
    Results. Then each warning is printed once; of more than five, only those of leakage and the number of the others.
    """

    def __init__(self, language: str = "en") -> None:
        self.language = language
        self.told: dict[Path, bool] = {}  # by folder, whether its Result existed already
        self.external_sets: dict[str, str] = {}  # names by fingerprint
        self._command = uuid4().hex
        self._unlogged: set[Path] = set()
        self._entries: deque[_PendingResult] = deque()
        self._warnings: dict[str, dict[str, list[str]]] = {}  # text -> run -> blocks
        self._leakage: set[str] = set()  # the warnings that void metrics

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        try:
            if error is not None and not isinstance(error, Exception):
                raise error
            self.finish()
        except (KeyboardInterrupt, SystemExit) as stop:
            stop.add_note("finished results are saved; run the command again, without again=true, for the rest")
            raise
        finally:
            self._print_warnings()
            self._stop_processes()

    def add(self, result: Result, folder: Path, there: bool = False) -> None:
        """Add a Result to save; `there` means that it is saved already and needs at most its figures."""
        self._entries.append(_PendingResult(result, folder, self.language, there))
        while self._entries and not (self._entries[0].is_waiting or self._entries[0].is_writing):
            self._finish_first()

    def begin(self) -> None:
        """Start writing the added Results, before a longer computation."""
        for entry in [entry for entry in self._entries if entry.is_waiting]:
            while sum(other.is_writing for other in self._entries) >= _MAX_PROCESSES:
                self._finish_first()
            entry.start()
        while self._entries and not self._entries[0].is_writing:
            self._finish_first()

    def finish(self) -> None:
        """Save and print everything; raise OutputError if a Result cannot be written."""
        while self._entries:
            self._finish_first()

    def _finish_first(self) -> None:
        """Wait until the first Result is saved and print its line; save again if its process failed."""
        entry = self._entries[0]
        if entry.process is not None:
            entry.process.join()
        self._entries.popleft()
        if not entry.is_done and (entry.process is None or entry.process.exitcode):
            try:
                _write(entry)
            except OSError as error:
                self._stop_processes()
                reason = f"{entry.folder} cannot be written: {error.strerror or error}."
                raise OutputError(reason, "Choose another folder: out=DIR") from error
        entry.result.arrays.clear()  # they take most of its memory
        self.external_sets |= list_external_sets(entry.result)
        if not entry.is_saved:
            self._log(entry.result, entry.folder.parents[1])
        run = str(entry.result.provenance.get("run", entry.folder.parents[2]))
        leakage = entry.result.provenance.get("leakage", ())
        for warning in entry.result.warnings:
            with use_language(self.language):
                text = format_reason(warning, entry.result.block)
            self._leakage.update([text] if warning.plain in leakage else [])
            self._warnings.setdefault(text, {}).setdefault(run, []).append(entry.folder.name)
        self.told[entry.folder] = entry.is_saved
        print_line(f"{'already there: ' * entry.is_saved}{entry.folder}: {_summarise(entry.result)}")

    def _log(self, result: Result, folder: Path) -> None:
        """Log a new Result; a folder that cannot be written costs a note, once."""
        try:
            log_result(result, folder, self._command)
        except (OSError, NotImplementedError) as error:  # the second on file systems without locks
            if folder not in self._unlogged:
                reason = getattr(error, "strerror", None) or error
                print_note(f"note: {folder}: this evaluation is not counted: {reason}")
            self._unlogged.add(folder)

    def _print_warnings(self) -> None:
        """Print each warning once, with the runs in which the same blocks raised it; of many, those of leakage."""
        few = len(self._warnings) <= _MAX_PRINTED_WARNINGS
        printed = {text: labels for text, labels in self._warnings.items() if few or text in self._leakage}
        for text, labels in printed.items():
            runs: dict[str, list[str]] = {}
            for run, blocks in labels.items():
                runs.setdefault(", ".join(dict.fromkeys(blocks)), []).append(run)
            for theirs, names in runs.items():
                print_note(f"warning: {format_names(names, 3)}: {theirs}: {text}")
        if left := len(self._warnings) - len(printed):
            others = " other" if printed else ""
            print_note(f"{left}{others} warnings: see the report, or metrics.json of each block")

    def _stop_processes(self) -> None:
        """Terminate the processes that still write, and remove what they have left half-written."""
        writing = [(entry.folder, entry.process) for entry in self._entries if entry.process is not None]
        self._entries.clear()
        with ignore_termination():
            for _, process in writing:
                process.terminate()
            for folder, process in writing:
                process.join(_GRACE_SECONDS)
                process.kill()
                process.join()
                remove_unfinished(folder, process.pid or 0)


def _write(entry: _PendingResult) -> None:
    """Save a Result with its figures, or draw the missing figures of a saved one."""
    with use_language(entry.language):
        if entry.is_saved:
            redraw(entry.folder, draw_figures, entry.language)
        else:
            entry.result.save(entry.folder, draw_figures, entry.language)


def _write_in_process(entry: _PendingResult) -> None:
    gc.freeze()  # keeps the garbage collector off objects of the parent process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent ends this one
    signal.signal(signal.SIGTERM, lambda number, __: sys.exit(128 + number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION_SIGNALS)
    try:
        _write(entry)
    except Exception:
        sys.exit(1)


def _summarise(result: Result) -> str:
    view = result.provenance.get("view", ALL)
    on = f"on {result.set}{f', view {view}' * (view != ALL)} (n = {result.n})"
    if not result.metrics:
        return on
    name, metric = next(iter(result.metrics.items()))
    if metric.value is None:
        return f"{name}: {format_reason(metric.reason, result.block) if metric.reason else ''}"
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if metric.low is not None and metric.high is not None else ""
    if (these := metric.these_sources) is not None:
        ends = f" [{these['low']:.3f}, {these['high']:.3f}]" if "low" in these else ""
        seen = f"{these.get('value', metric.value):.3f}{ends} for these sources"
        interval += f" for new sources ({metric.units} sources; {seen})"
    raw = result.metrics.get(name.removeprefix(_SCALED)) if name.startswith(_SCALED) else None
    beside = f" (raw {raw.value:.3f})" if raw is not None and raw.value is not None else ""
    return f"{name} {metric.value:.3f}{interval}{beside} {on}"
