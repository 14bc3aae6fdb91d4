"""Prediction of image files by Ray Data: read in tasks, answered by a pool of actors, written as Parquet parts."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from avatar_bench.config.entries import FOLDERS_VARIABLE
from avatar_bench.data.corruptions import SLIGHT_CHANGES, Variation
from avatar_bench.data.loaders import ReadableImageDataset, ReadFiles
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import AvatarBenchError, OutputError
from avatar_bench.files.remote import is_remote
from avatar_bench.inference.autotune import set_threads
from avatar_bench.plugins.ray.prediction_parts import PredictionParts
from avatar_bench.results.view import View
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.file_predictor import FilePredictor
from avatar_bench.runs.run import Run

if TYPE_CHECKING:
    from avatar_bench.commands.predict import PredictConfig
    from avatar_bench.runs.decisions import DecisionRule

# read by Ray when it is imported or started: no reports of usage, no messages of its own on standard error
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",  # by default the least, at which actors starve beside other programs
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # else each part is written by a process of its own
}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # a Ray started here listens on this machine alone
_STORE_BYTES, _BLOCK_BYTES = 2**29, 2**25  # of a Ray started here; of images that a task hands over at once
_MOST_BATCHES, _FEWEST_TASKS = 16, 2000  # a task reads several batches where it does not leave fewer tasks than that
_FEWEST_ROWS, _MOST_ROWS, _FEWEST_PARTS = 256, 10_000, 100  # rows of a part, which a kill may lose, and parts
_READERS = 8  # threads that wait for a remote file system

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Answering:
    """How actors answer: the run as the command has opened it, and what else its FilePredictor has."""

    path: Path
    run: Mapping[str, Any]  # fields of Run
    view: View
    settings: PredictConfig
    rule: DecisionRule | None

    @classmethod
    def like(cls, path: Path, predictor: FilePredictor) -> Answering:
        """Return how to answer as a predictor does, whose run is at `path`."""
        run = predictor.run
        opened = {name: getattr(run, name) for name in ("allow", "accelerator", "runtime", "batch_size")}
        return cls(path.absolute(), opened, run.view, predictor.settings, predictor.rule)


@contextmanager
def connect_ray(address: str) -> Iterator[Mapping[str, float]]:
    """Join a Ray cluster, or start one for `address` "local", and yield its resources; leave or end it afterwards.

    Raise OutputError if there is no such cluster.
    """
    is_own = address == "local"
    os.environ.update(_QUIET | (_LOOPBACK if is_own else {}))
    import ray
    from ray.data import DataContext

    options: dict[str, Any] = {"object_store_memory": _STORE_BYTES} if is_own else {}
    if folders := os.environ.get(FOLDERS_VARIABLE):
        options["runtime_env"] = {"env_vars": {FOLDERS_VARIABLE: folders}}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _silence(), _without_dashboard():  # its logging states its own level
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"engine.address={address}: Ray does not answer: {reason}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's would end with another exit code
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = DataContext.get_current()
        context.enable_progress_bars = sys.stderr.isatty()
        context.print_on_execution_start = False
        context.target_max_block_size = _BLOCK_BYTES
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def predict_parts(
    run: Run,
    answering: Answering,
    files: Sequence[str],
    parts: PredictionParts,
    actors: str | int | Sequence[int],
    resources: Mapping[str, float],
) -> None:
    """Predict files as `run` does, and write their rows to `parts`, in any order.

    `actors` is a number, (least, most) or "auto". Actors and tasks that die are replaced, and their files are read
    again. Raise the errors of opening a run, and OutputError if a file system or the memory fails for long.
    """
    import ray
    from ray.data import ActorPoolStrategy

    gpus = int(resources.get("GPU", 0)) if run.accelerator != "cpu" and run.runtime == "torch" else 0
    sizes = [count for node in ray.nodes() if node["Alive"] and (count := node["Resources"].get("CPU"))] or [1]
    cores = sum(sizes)
    # actors leave room for a reading task on each machine, also when one of several is lost
    half, left = min(sizes) / 2, cores - max(sizes) or cores
    most = (gpus or max(1, int(cores // 2))) if actors == "auto" else actors
    least, most = (most, most) if isinstance(most, int) else (int(most[0]), int(most[1]))
    size = run.batch_size * min(_MOST_BATCHES, max(1, len(files) // (_FEWEST_TASKS * run.batch_size)))
    paths = [os.fsencode(file) for file in files]  # names that are not UTF-8 too
    data = ray.data.from_arrow(
        [pa.table({"path": pa.array(paths[at : at + size], pa.binary())}) for at in range(0, len(paths), size)]
    )
    if run.predictor.computes_logits:
        data = data.map_batches(
            _read_images,
            batch_size=None,
            fn_kwargs={
                "preprocessings": run.predictor.preprocessings,
                "variations": SLIGHT_CHANGES if answering.settings.stability else (),
            },
            num_cpus=min(1, half),
        )
    data = data.map_batches(
        _Actor,
        fn_constructor_args=(answering, parts),
        batch_size=run.batch_size,
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        # half of the cores at most are theirs: the others read and write
        num_cpus=min(answering.settings.threads or 1, half, left / (2 * least)),
        num_gpus=1 if gpus else 0,
    )
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, len(files) // _FEWEST_PARTS))
    try:
        # without a core of their own: on two cores, Ray would write nothing before all images are read
        writing = {"num_cpus": 0}
        data.write_parquet(parts.folder, filesystem=parts.system, min_rows_per_file=rows, ray_remote_args=writing)
    except Exception as error:
        raise _explain(error) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what libraries write to standard error themselves."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def _without_dashboard() -> Iterator[None]:
    """Start no process of Ray's dashboard: it asks the metadata address of clouds, also with reports of usage off."""
    from ray._private import services

    start = services.start_api_server
    services.start_api_server = lambda *_, **__: (None, None)  # no address, no process
    try:
        yield
    finally:
        services.start_api_server = start


def _read_images(
    batch: Columns, preprocessings: Sequence[Preprocessing], variations: Sequence[Variation] = ()
) -> Columns:
    """Return a batch of paths with a reason for each file that cannot be used, and the images of the others."""
    paths = [os.fsdecode(path) for path in batch["path"]]
    images = ReadableImageDataset(paths, preprocessings, variations)
    with ThreadPoolExecutor(_READERS if is_remote(paths[0]) else 1) as pool:
        items = list(pool.map(images.__getitem__, range(len(paths))))
    columns = {"path": batch["path"], "reason": np.array([item.get("reason", "") for item in items], dtype=object)}
    for number, preparing in enumerate([*preprocessings] * (1 + len(variations))):
        blank = np.zeros((preparing.size, preparing.size, 3), dtype=np.uint8)
        columns[f"image{number}"] = np.stack([item["images"][number] if "images" in item else blank for item in items])
    return columns


class _Actor:
    """A process that holds one run and answers batches."""

    def __init__(self, answering: Answering, parts: PredictionParts) -> None:
        self.parts = parts
        set_threads(answering.settings.threads)
        run = open_run(answering.path, **answering.run)
        run.view = answering.view
        run.predictor.workers = 0
        self.predictor = FilePredictor(run, answering.settings, answering.rule)
        self.predictor.load()

    def __call__(self, batch: Columns) -> pa.Table:
        """Return the rows of a batch."""
        files = [os.fsdecode(path) for path in batch["path"]]
        if "reason" in batch:
            readable = batch["reason"] == ""
            columns = [batch[name] for name in batch if name.startswith("image")] if readable.any() else []
            images = [torch.from_numpy(column[readable]).movedim(-1, -3) for column in columns]
            files = ReadFiles(files, {"seen": list(enumerate(batch["reason"])), "images": images})
        with closing(self.predictor.predict(files)) as tables:
            return self.parts.to_arrow(pd.concat(tables, ignore_index=True))


def _explain(error: BaseException) -> BaseException:
    """Return the error of ours that Ray has wrapped, or what a user can do about one of Ray's, else the error."""
    from ray.exceptions import OutOfMemoryError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AvatarBenchError):
            return seen
        if isinstance(seen, OutOfMemoryError):
            return OutputError("Out of memory.", "Use fewer actors or smaller batches: engine.actors=N batch_size=N.")
        if isinstance(seen, OSError):
            return OutputError(" ".join(str(seen).split())[:300], "Go on with the same command and update=true.")
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
