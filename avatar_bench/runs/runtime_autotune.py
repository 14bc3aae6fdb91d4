"""The fastest runtime for predictions of a run on this machine, found by a trial that is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from scipy.special import log_softmax

import avatar_bench
from avatar_bench.config.entries import find_entries
from avatar_bench.console.terminal import print_line
from avatar_bench.data.loaders import to_tensor
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
LEAST_EQUAL = 0.99  # of the predicted classes of calibration images
_N_IMAGES, _BATCH = 192, 64


def choose_runtime(run: Run, open_with: Callable[[str], Run], precision: str, n_files: int) -> str:
    """Return the name of the fastest installed runtime whose predictions on files agree with torch's.

    `run` computes by torch, `open_with` opens it with another runtime. The trial, on calibration images, is made once a
    run and machine, for at least FEWEST_FILES files. Without such images, on a GPU, or if no other runtime has the
    precision, the runtime is torch.
    """
    runtimes = find_entries("runtime")
    able = [name for name, entry in runtimes.items() if precision in ("auto", *entry.about.get("precisions", ["32"]))]
    candidates = [name for name in able if not find_missing_package(name)]
    if precision == "int8":  # torch lacks it
        return (candidates or able)[0]
    is_known = run.images is not None and len(run.images.select_split("calibration"))
    if not candidates or not is_known or run.predictor.device != "cpu":
        return "torch"
    stated = [run.checkpoint_sha256, precision, avatar_bench.__version__, describe_setup("cpu")]
    stated += [[name, *describe_versions(name)] for name in candidates]
    file = cache_root() / "trials" / f"{sha256_of_text(json.dumps(stated))[:16]}.json"
    with suppress(OSError):  # without a cache: another trial each time could change the predictions
        file.parent.mkdir(parents=True, exist_ok=True)
        with shared_lock(file.with_suffix(".lock")):
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # no trial yet, or a damaged one
                kept = json.loads(file.read_text(encoding="utf-8"))["runtime"]
                if kept in ("torch", *candidates):
                    return str(kept)
            if n_files < FEWEST_FILES:
                return "torch"
            every = ", ".join(["torch", *candidates])
            print_line(f"runtime=auto: comparing {every}, once for this run on this machine", file=sys.stderr)
            chosen, seen = _try({"torch": run, **{name: open_with(name) for name in candidates}}, precision)
            write_text(file, json.dumps({"runtime": chosen, "seen": seen, "machine": describe_setup("cpu")}, indent=1))
            return chosen
    return "torch"


def _try(runs: Mapping[str, Run], precision: str) -> tuple[str, dict[str, dict[str, float | str]]]:
    """Return the chosen runtime, and what was seen of each: seconds a batch, agreement, or why it cannot be used."""
    reference = runs["torch"].predictor
    dataset = runs["torch"].dataset("calibration")
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_IMAGES])
    images = [dataset.image(int(row)) for row in rows]
    inputs = [torch.stack([to_tensor(prepare(image)) for image in images]) for prepare in reference.preprocessings]
    batch: Sequence[torch.Tensor] = [part[:_BATCH] for part in inputs]
    exact = reference.compute_logits(inputs)
    seen: dict[str, dict[str, float | str]] = {}
    jobs: dict[str, TimedCall] = {}
    for name, run in runs.items():
        kind = run.predictor.resolve_precision(precision)
        try:
            logits = run.predictor.compute_logits(inputs, kind)
        except ConfigError as error:  # the network cannot be exported
            seen[name] = {"refused": error.lines[0]}
            continue
        equal = float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean())
        differs = float(np.abs(log_softmax(logits, axis=1) - log_softmax(exact, axis=1)).max())
        seen[name] = {"precision": kind, "equal_classes": equal, "log_difference": differs}
        if name == "torch" or (equal >= LEAST_EQUAL and differs <= MAX_LOG_DIFFERENCE[kind]):
            threads = min(torch.get_num_threads(), tune_inference("cpu").threads) if name == "torch" else None
            call = partial(run.predictor.compute_logits, batch, kind)
            jobs[name] = TimedCall(call, threads or torch.get_num_threads())
    timed = time_interleaved(list(jobs.values()), rounds=5, seconds=1.0)
    seconds = dict(zip(jobs, timed.groupby("job")["seconds"].min().tolist(), strict=True))
    for name, took in seconds.items():
        seen[name]["seconds"] = took
    return select_fastest(seconds), seen
