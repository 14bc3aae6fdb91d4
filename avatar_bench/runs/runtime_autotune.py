"""The fastest runtime for predictions of a run on this machine, found by a trial that is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

import avatar_bench
from avatar_bench.config.entries import find_entries
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import ConfigError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.files.lock import shared_lock
from avatar_bench.files.paths import cache_root
from avatar_bench.inference.precision_autotune import describe_setup, select_fastest, tune_inference
from avatar_bench.inference.resume import MAX_LOG_DIFFERENCE
from avatar_bench.inference.runtimes import describe_versions, find_missing_package
from avatar_bench.models.profiling import TimedCall, time_interleaved
from avatar_bench.runs.run import Run

FEWEST_FILES = 1000  # with fewer, a trial takes longer than it saves
MAX_CHANGED = 0.01  # of the classes of calibration images, beyond those that torch's own precision changes
_N_IMAGES, _BATCH = 192, 64
_TRIED = {"auto": ["32", "bf16"]}  # by the precision asked for


def choose_runtime(
    run: Run, open_with: Callable[[str], Run], precision: str, n_files: int, keeps_trial: bool = True
) -> tuple[str, str]:
    """Return the fastest installed runtime whose predictions on files agree with torch's, and its precision.

    `run` computes by torch, `open_with` opens it with another runtime; `precision` is that of predict, also "auto". The
    trial, on calibration images, is made once a run and machine, for at least FEWEST_FILES files. Without such images,
    on a GPU, or if no other runtime has the precision, the runtime is torch. Without `keeps_trial`, it is not kept.
    """
    able = {
        name: [kind for kind in entry.about.get("precisions", ["32"]) if kind in _TRIED.get(precision, [precision])]
        for name, entry in find_entries("runtime").items()
    }
    installed = {name: kinds for name, kinds in able.items() if kinds and not find_missing_package(name)}
    if precision == "int8":  # torch lacks it
        return next(iter(installed or {name: kinds for name, kinds in able.items() if kinds})), precision
    by_torch = "torch", run.predictor.resolve_precision(precision)
    if not installed or run.predictor.device != "cpu":
        return by_torch
    tried = [by_torch, *((name, kind) for name, kinds in installed.items() for kind in kinds)]
    stated = [run.checkpoint_sha256, avatar_bench.__version__, describe_setup("cpu"), tried]
    stated += [[name, *describe_versions(name)] for name in installed]
    file = cache_root() / "trials" / f"{sha256_of_text(json.dumps(stated))[:16]}.json"
    if kept := _read_choice(file, tried):
        return kept
    if n_files < FEWEST_FILES or run.images is None or not len(run.images.select_split("calibration")):
        return by_torch
    if not keeps_trial:
        return _try(run, open_with, tried)[0]
    with suppress(OSError):  # without a cache: another trial each time could change the predictions
        file.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(file.with_suffix(".lock")):
            if kept := _read_choice(file, tried):  # of another process
                return kept
            every = ", ".join(["torch", *installed])
            print_line(f"runtime=auto: comparing {every}, once for this run on this machine", file=sys.stderr)
            chosen, seen = _try(run, open_with, tried)
            result = {"runtime": chosen[0], "precision": chosen[1], "seen": seen, "machine": describe_setup("cpu")}
            write_text(file, json.dumps(result, indent=1))
            return chosen
    return by_torch


def _read_choice(file: Path, tried: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Read the choice of an earlier trial; return None if there is none, or it is damaged."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        choice = kept["runtime"], kept["precision"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return choice if choice in tried else None


def _try(
    run: Run, open_with: Callable[[str], Run], tried: Sequence[tuple[str, str]]
) -> tuple[tuple[str, str], dict[str, dict[str, float | str]]]:
    """Return the chosen runtime and precision, and what was seen of each: agreement, and seconds a batch."""
    runs = {name: run if name == "torch" else open_with(name) for name, _ in tried}
    reference, dataset = run.predictor, run.dataset("calibration")
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_IMAGES])
    inputs = reference.preprocess([dataset.image(int(row)) for row in rows])
    batch = [part[:_BATCH] for part in inputs]
    exact = reference.compute_logits(inputs)
    least = 0.0
    seen: dict[str, dict[str, float | str]] = {}
    jobs: dict[str, TimedCall] = {}
    for name, kind in tried:
        compute = runs[name].predictor.compute_logits
        words = f"runtime={name} precision={kind}"
        try:
            logits = compute(inputs, kind)
        except ConfigError as error:  # the network cannot be exported
            seen[words] = {"refused": error.lines[0]}
            continue
        equal = float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean())
        differs = float(np.abs(log_softmax(logits, axis=1) - log_softmax(exact, axis=1)).max())
        seen[words] = {"equal_classes": equal, "log_difference": differs}
        if name == "torch" or (equal >= least and differs <= MAX_LOG_DIFFERENCE[kind]):
            least = equal - MAX_CHANGED if name == "torch" else least
            threads = tune_inference("cpu").threads if name == "torch" else torch.get_num_threads()
            jobs[words] = TimedCall(partial(compute, batch, kind), min(threads, torch.get_num_threads()))
    timed = time_interleaved(list(jobs.values()), rounds=5, seconds=1.0)
    for words, seconds in zip(jobs, timed.groupby("job")["seconds"].min(), strict=True):
        seen[words]["seconds"] = float(seconds)
    fastest = select_fastest({words: float(seen[words]["seconds"]) for words in jobs})
    return tried[list(seen).index(fastest)], seen
