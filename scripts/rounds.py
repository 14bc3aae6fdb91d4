"""Timing of alternative commands in alternating rounds, each in a process of its own."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from avatar_bench import __version__
from avatar_bench.console.signals import block_termination

PROC = Path("/proc")
BETWEEN_SAMPLES = 0.1  # s
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "amx_bf16",
)  # what decides how fast a network is, and in which precision

Figures = dict[str, float]


@dataclass(frozen=True)
class Ended:
    """Measurements of a finished process; lines are its output, each with the seconds since its start."""

    begun: float  # seconds since 1970
    seconds: float
    processor: float  # seconds on all processors, of this process and of those it waited for
    peak: float  # MiB of all its processes together, shared pages counted once; nan where not measured
    code: int
    lines: list[tuple[float, str]]


@dataclass(frozen=True)
class Way:
    """Alternative of a comparison: a command, a preparation of each round, and a reader of further metrics.

    `first` is a command that is run once, unmeasured, for what a machine does only once.
    """

    name: str
    command: Sequence[str | Path]
    read: Callable[[Ended], Figures] = lambda ended: {}
    before: Callable[[], object] = lambda: None
    first: Sequence[str | Path] = ()
    code: int = 0
    memory: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment, beside those of all


@dataclass(frozen=True)
class Comparison:
    """Alternatives for one task; the metrics in `of` are reported as ratios to those of the ways in `beside`."""

    title: str
    ways: Sequence[Way]
    beside: Sequence[str] = ()
    of: Sequence[str] = ("seconds",)
    left_out: Sequence[str] = ()


def measure(comparison: Comparison, rounds: int, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run all alternatives in turn and return medians and spread; one that fails is left out and reported."""
    collected: dict[str, list[Figures]] = {way.name: [] for way in comparison.ways}
    failed: list[str] = []

    def complete(way: Way, command: Sequence[str | Path]) -> Ended | None:
        ended = run(command, folder, {**variables, **way.variables}, way.memory)
        if ended.code == way.code:
            return ended
        del collected[way.name]
        failed.append(f"{way.name} failed with {ended.code}: {ended.lines[-1][1] if ended.lines else ''}")
        return None

    for way in comparison.ways:
        if way.first:
            complete(way, way.first)
    for _ in range(rounds):
        for way in (way for way in comparison.ways if way.name in collected):
            way.before()
            if ended := complete(way, way.command):
                collected[way.name].append(figures_of(ended) | way.read(ended))
    return {
        "title": comparison.title,
        "rounds": rounds,
        "ways": [
            {
                "way": name,
                "figures": {figure: spread([one[figure] for one in each]) for figure in each[0]},
                "ratios": {
                    figure: {
                        other: ratio(collected[other], each, figure)
                        for other in comparison.beside
                        if other in collected
                    }
                    for figure in comparison.of
                    if figure in each[0]
                },
            }
            for name, each in collected.items()
        ],
        "left out": list(comparison.left_out),
        "failed": failed,
    }


def run(command: Sequence[str | Path], folder: Path, variables: Mapping[str, str], memory: bool = False) -> Ended:
    """Run a command to its end, as from a shell in `folder`; sample its memory if `memory`."""
    begun, start = time.time(), time.perf_counter()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        output = process.stdout
        listener = threading.Thread(
            target=lambda: lines.extend((time.perf_counter() - start, line.rstrip()) for line in output)
        )
        peaks: list[float] = []
        done = threading.Event()
        sampler = threading.Thread(target=lambda: peaks.extend(sample(process.pid, done)))
        threads = (listener, sampler) if memory else (listener,)
        try:
            with block_termination():  # a signal in the middle of a start would leave a thread that nobody waits for
                for thread in threads:
                    thread.start()
            _, status, usage = os.wait4(process.pid, 0)  # instead of wait: it returns the processor time
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
        finally:
            done.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
    processor = usage.ru_utime + usage.ru_stime
    return Ended(begun, seconds, processor, max(peaks, default=float("nan")), process.returncode, lines)


def sample(root: int, done: threading.Event) -> Iterator[float]:
    """Yield the memory of a process and all its descendants in MiB, repeatedly; a shared page counts once."""
    while not done.wait(BETWEEN_SAMPLES):
        yield sum(proportional(process) for process in tree(root)) / 1024


def tree(root: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    parents: dict[int, int] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2]
        except OSError:  # ended meanwhile
            continue
        parents[int(folder.name)] = int(after_name.split()[1])
    collected = [root]
    for process in collected:  # grows as it goes
        collected.extend(child for child, parent in parents.items() if parent == process)
    return collected


def proportional(process: int) -> int:
    """Return the proportional set size of a process in KiB; 0 where it has ended."""
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def figures_of(ended: Ended) -> Figures:
    """Return the metrics of every process; the peak only where it was measured."""
    known = {"seconds": ended.seconds, "processor seconds": ended.processor, "peak MiB": ended.peak}
    return {name: value for name, value in known.items() if value == value}


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": list(values)}


def ratio(other: Sequence[Figures], this: Sequence[Figures], figure: str) -> dict[str, float]:
    """Return the ratio of the medians, with the minimum and maximum of any one round."""
    each = [one[figure] / mine[figure] for one, mine in zip(other, this, strict=False)]
    medians = (statistics.median(one[figure] for one in many) for many in (other, this))
    return {"median": next(medians) / next(medians), "low": min(each), "high": max(each)}


def table(result: Mapping[str, Any]) -> str:
    """Return one comparison in Markdown."""
    ways = result["ways"]
    names = list(dict.fromkeys(name for way in ways for name in way["figures"]))
    pairs = list(
        dict.fromkeys((figure, other) for way in ways for figure, each in way["ratios"].items() for other in each)
    )
    heads = [f"{other} / this" + (f" ({figure})" if figure != "seconds" else "") for figure, other in pairs]
    rows = [["", *names, *heads], ["---"] * (1 + len(names) + len(heads))]
    for way in ways:
        cells = [format_spread(way["figures"].get(name)) for name in names]
        cells += [format_spread(way["ratios"].get(figure, {}).get(other)) for figure, other in pairs]
        rows.append([way["way"], *cells])
    lines = [f"**{result['title']}**", "", *(f"| {' | '.join(row)} |" for row in rows)]
    notes = [*result["left out"], *result["failed"]]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def pair(comparison: Comparison, command: Sequence[str], commit: str, at: Mapping[str, str]) -> Iterator[Comparison]:
    """Yield, for each way that begins with a command, a comparison of it with itself at a commit.

    `at` are the environment variables with which the command is that of the commit.
    """
    for way in comparison.ways:
        if tuple(way.command[: len(command)]) == tuple(command):
            ways = [replace(way, name=commit, variables=at), replace(way, name="here")]
            title = f"{comparison.title}: {way.name}"
            yield replace(comparison, title=title, ways=ways, beside=(commit,), left_out=())


def list_changes(result: Mapping[str, Any]) -> list[str]:
    """Return a line for each ratio of the last way that lies on one side of 1 in every round, of two or more."""
    pairs = [
        (figure, other, value)
        for way in result["ways"][-1:]
        for figure, ratios in way["ratios"].items()
        for other, value in ratios.items()
    ]
    return [
        f"{result['title']}: {other} / {result['ways'][-1]['way']} ({figure}) {format_spread(value)}"
        for figure, other, value in pairs
        if result["rounds"] > 1 and (value["low"] > 1 or value["high"] < 1)
    ]


def format_spread(figure: Mapping[str, Any] | None) -> str:
    """Return a median with its minimum and maximum, to three digits."""
    if figure is None:
        return ""
    values = [figure[name] for name in ("median", "low", "high")]
    whole = all(isinstance(value, int) for value in values)
    digits = 0 if whole or values[0] >= 100 else 1 if values[0] >= 10 else 2
    median, low, high = (f"{value:,.{digits}f}" for value in values)
    return median if low == high else f"{median} ({low}–{high})"


def machine() -> dict[str, Any]:
    """Return the properties of the machine on which metrics depend."""
    text = (PROC / "cpuinfo").read_text() if (PROC / "cpuinfo").is_file() else ""
    facts = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm")}
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": cores(),
        "system": platform.platform(terse=True),
        "versions": {"avatar_bench": __version__, "python": platform.python_version(), **versions},
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
