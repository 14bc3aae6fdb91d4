"""Timing of the predictions of `predict`, as a process of its own: a request on standard input, passes on output."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from avatar_bench.evaluation.blocks.efficiency.latency import MIN_PASSES, PREFETCH_FACTOR, fill_file_cache
from avatar_bench.models.profiling import time_batches
from avatar_bench.runs.file_predictor import ComputeOptions, open_tuned_run
from avatar_bench.runs.runtime_autotune import FEWEST_FILES


def time_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting with which `predict` computes on many files, and the round, images and seconds of each pass.

    The passes follow one another in the middle of one job, see `time_files`. Each predicts the same files.
    """
    options = ComputeOptions(accelerator=request["accelerator"], allow=request["allow"])
    run = open_tuned_run(Path(request["run"]), options, FEWEST_FILES, keeps_trial=False)
    size, workers = options.batch_size, options.workers or 0
    # as many batches as workers, which may deliver them all at once
    batches = max(2, workers, math.ceil(request["seconds"] * request["rate"] / size))
    files = np.resize(request["files"], batches * size)
    fill_file_cache(set(files.tolist()))
    asked = np.resize(files, size * (workers + 1 + request["passes"] * batches + PREFETCH_FACTOR * workers))
    with closing(run.predict_files(asked.tolist(), precision=options.precision)) as tables:
        waits = time_batches(tables)
        deque(islice(waits, workers + 1), maxlen=0)
        passes = list(_time_passes(waits, batches, request["passes"], request["seconds"]))
    setting = {"runtime": options.runtime, "precision": options.precision, "threads": options.threads}
    return {"setting": setting | {"workers": workers, "batch": size}, "passes": passes}


def _time_passes(
    waits: Iterator[tuple[int, float]], batches: int, passes: int, seconds: float
) -> Iterator[tuple[int, int, float]]:
    total = 0.0
    for number in range(passes):
        images, took = np.sum(list(islice(waits, batches)), axis=0).tolist()
        yield number, int(images), took
        total += took
        if number + 1 >= MIN_PASSES and total > 2 * seconds * passes:
            break


if __name__ == "__main__":
    json.dump(time_request(json.load(sys.stdin)), sys.stdout)
