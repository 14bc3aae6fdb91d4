"""Timing for efficiency: every setting of the network in turn, and passes over real files."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatar_bench.console.progress import open_bar, track
from avatar_bench.data.shard_files import locate_image
from avatar_bench.inference.autotune import FEWEST_FILES
from avatar_bench.inference.runtimes import TORCH_RUNTIMES, Engine, prepare_engine
from avatar_bench.models.profiling import TimedCall, time_batches, time_interleaved
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.file_predictor import ComputeOptions, open_tuned_run

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

CPU = "cpu"  # runtime name of torch on the CPU, timed beside torch on a GPU
MIN_TIMED_BATCHES = 4  # batches timed in each pass over real files
MIN_PASSES = 3
MAX_PREDICT_SECONDS = 600  # of the process that times predict, with its trial of the runtimes
PASS_COLUMNS = ["round", "images", "seconds"]
PREFETCH_FACTOR = 2  # of torch's DataLoader: batches that each worker prepares in advance
SETTING = ["command", "runtime", "precision", "threads", "workers", "batch"]  # of predictions on files
_TEST_IMAGES = 4  # images on which the runtimes' logits are compared
Factory = Callable[[int], Engine]


class TimedSetting(NamedTuple):
    """Setting to time; `network` is "run", or "copy" for an identical one."""

    runtime: str
    batch: int
    threads: int
    network: str


def create_noise_images(run: Run, count: int) -> Tensor:
    """Create noise images as input of the network, uint8 (count, 3, S, S), on its device."""
    size, generator = run.preprocessing.size, torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator).to(
        run.predictor.device
    )


def find_device(run: Run, runtime: str) -> str:
    """Return the device that a runtime computes on: the run's, or the CPU."""
    return run.predictor.device if runtime in TORCH_RUNTIMES else "cpu"


def prepare_runtimes(run: Run, runtimes: Sequence[str]) -> tuple[dict[str, Factory], dict[str, float]]:
    """Return the engine factory of each runtime, and the distance of its logits from torch's on the same device.

    If the run computes on a GPU, torch on the CPU is an additional runtime.
    """
    size = run.preprocessing.size
    prepared = track(runtimes, "prepare runtimes", unit="runtime")
    factories = {name: prepare_engine(name, run.predictor.module, size) for name in prepared}
    if run.predictor.device != "cpu":
        factories[CPU] = prepare_engine("torch", copy.deepcopy(run.predictor.module).cpu(), size)
    images = create_noise_images(run, _TEST_IMAGES)
    logits = {
        name: factory(torch.get_num_threads())(images.cpu() if find_device(run, name) == "cpu" else images)
        for name, factory in factories.items()
    }
    distances = {}
    for name, of_runtime in logits.items():
        right = logits["torch" if find_device(run, name) == run.predictor.device else CPU]
        distances[name] = float((np.abs(of_runtime - right) / np.maximum(1, np.abs(right))).max())
    return factories, distances


def time_network(
    run: Run, factories: dict[str, Factory], batches: Sequence[int], threads: Sequence[int], turns: dict[str, float]
) -> pd.DataFrame:
    """Time each runtime with each batch size and number of threads, and a copy of the network beside torch's first.

    `turns` has rounds, seconds and seed of `profiling.time_interleaved`. On a GPU, `threads` has no effect and the
    current setting is used. The result has one row per call: runtime, batch, threads, network, round, seconds,
    processor_seconds.
    """
    threads_before = [torch.get_num_threads()]
    twin = prepare_engine("torch", copy.deepcopy(run.predictor.module), run.preprocessing.size)
    counts = {name: threads if find_device(run, name) == "cpu" else threads_before for name in factories}
    cases = {
        TimedSetting(runtime, batch, count, "run"): factory(count)
        for runtime, factory in factories.items()
        for count in counts[runtime]
        for batch in batches
    }
    first = counts["torch"][0]
    cases |= {TimedSetting("torch", batch, first, "copy"): twin(first) for batch in batches}
    images = {batch: create_noise_images(run, batch) for batch in batches}
    there = {batch: tensor.cpu() for batch, tensor in images.items()}
    jobs = []
    for case, engine in cases.items():
        tensors = (there if find_device(run, case.runtime) == "cpu" else images)[case.batch]
        jobs.append(TimedCall(partial(engine, tensors), case.threads))
    timed = time_interleaved(jobs, int(turns["rounds"]), turns["seconds"], int(turns["seed"]))
    named = pd.DataFrame(list(cases), columns=list(TimedSetting._fields)).iloc[timed["job"]].reset_index(drop=True)
    return pd.concat([named, timed[["round", "seconds", "processor_seconds"]]], axis=1)


def time_files(run: Run, files: NDArray[np.str_], workers: Sequence[int], passes: int, seconds: float) -> pd.DataFrame:
    """Time predictions on files by torch, decoding included; one row per pass: workers, round, images, seconds.

    A pass takes about `seconds` or more; if it takes more than twice as long, there are fewer passes, but at least 3.
    At 0 seconds a pass is as short as possible. The numbers of workers take turns, and every pass starts with the same
    files in the same order, repeated if they are few: passes differ only by the state of the machine.
    """
    batches = dict.fromkeys(workers, MIN_TIMED_BATCHES)
    for count in track(workers if seconds else (), "warm up", unit="setting"):
        images, took = _time_pass(run, files, count, MIN_TIMED_BATCHES)
        batches[count] = max(MIN_TIMED_BATCHES, math.ceil(seconds * images / max(took, 1e-9) / run.batch_size))
    fill_file_cache(files[: max(batches.values()) * run.batch_size])
    rows: list[tuple[float, ...]] = []
    for turn in track(range(passes), "timed files", unit="pass"):
        rows += [(count, turn, *_time_pass(run, files, count, batches[count])) for count in workers]
        if turn + 1 >= MIN_PASSES and sum(row[-1] for row in rows) > 2 * seconds * passes * len(workers):
            break
    table = pd.DataFrame(rows, columns=["workers", *PASS_COLUMNS])
    return table.astype({"workers": int, "round": int, "images": int})


def _time_pass(run: Run, files: NDArray[np.str_], workers: int, batches: int) -> tuple[float, float]:
    """Return the number of timed images and their seconds, in the middle of a longer job.

    While workers start, batches arrive late and then all at once; at the end nothing is decoded beside the network.
    """
    timed = copy.copy(run.predictor)  # shares the network
    timed.workers = workers
    first, last = workers + 1, PREFETCH_FACTOR * workers
    timed_files = np.resize(files, run.batch_size * (first + batches + last)).tolist()
    # stop here: the last batches are decoded in the background but not timed
    waits = np.array(list(islice(time_batches(timed.predict_files(timed_files)), first + batches)))[first:]
    images, seconds = waits.sum(axis=0).tolist()
    return images, seconds


def fill_file_cache(files: Iterable[str]) -> None:
    """Read files once, so that the disk's speed is not measured."""
    for file in files:
        locate_image(Path(file)).read_bytes()


def time_predict(run: Run, files: NDArray[np.str_], passes: int, seconds: float, rate: float) -> pd.DataFrame | Reason:
    """Time the predictions of `predict` on many such files; return one row per pass, or why there is none.

    The columns are SETTING and PASS_COLUMNS. A process of its own computes them: the libraries of its runtime can end
    it without ending this one. A pass takes about `seconds` at `rate` images per second, or less.
    """
    request: dict[str, Any] = {"run": os.fspath(run), "accelerator": run.accelerator, "allow": sorted(run.allow)}
    request |= {"files": files.tolist(), "passes": passes, "seconds": seconds, "rate": rate}
    try:
        said = json.loads(_ask_process(json.dumps(request)).splitlines()[-1])
    except (OSError, subprocess.SubprocessError) as error:
        status = getattr(error, "returncode", type(error).__name__)
        return Reason("predict_failed", status=status)
    table = pd.DataFrame(said["passes"], columns=PASS_COLUMNS)
    return table.assign(command="predict", **said["setting"])[[*SETTING, *PASS_COLUMNS]]


def _ask_process(request: str) -> str:
    """Return what a process of its own answers to a request, while a bar counts the seconds."""
    command = [sys.executable, "-c", f"from {__name__} import answer_request; answer_request()"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process, open_bar("timed predict", None, unit="s") as bar:
        try:
            for second in range(MAX_PREDICT_SECONDS):
                with suppress(subprocess.TimeoutExpired):
                    answer, __ = process.communicate(None if second else request, timeout=1)
                    break
                bar.update()
            else:
                raise subprocess.TimeoutExpired(command, MAX_PREDICT_SECONDS)
        finally:
            process.kill()  # does nothing where it has ended
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return str(answer)


def answer_request() -> None:
    """Answer the request of `time_predict` on standard input: write its setting and passes to standard output."""
    json.dump(_time_request(json.load(sys.stdin)), sys.stdout)


def _time_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting with which `predict` computes on many files, and round, images and seconds of each pass."""
    options = ComputeOptions(accelerator=request["accelerator"], allow=request["allow"])
    run = open_tuned_run(Path(request["run"]), options, FEWEST_FILES, keeps_trial=False)
    size, workers = options.batch_size, options.workers or 0
    # as many batches as workers, which may deliver them all at once
    batches = max(2, workers, math.ceil(request["seconds"] * request["rate"] / size))
    files = np.resize(request["files"], batches * size)
    fill_file_cache(set(files.tolist()))
    timed_files = np.resize(files, size * (workers + 1 + request["passes"] * batches + PREFETCH_FACTOR * workers))
    with closing(run.predict_files(timed_files.tolist(), precision=options.precision)) as tables:
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
