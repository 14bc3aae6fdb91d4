"""What efficiency times: every setting of the network by turns, and passes over real files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avatar_bench.data.manifest import files_of
from avatar_bench.models.profiling import Job, arrivals, interleaved
from avatar_bench.models.runtimes import Engine, prepare

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.runs import Run

MEASURED = 4  # batches timed in each pass over real files
_TESTED = 4  # pictures on which runtimes must agree
Factory = Callable[[int], Engine]


class Case(NamedTuple):
    """Name a setting; `network` is "run", or "copy" for an identical one."""

    runtime: str
    batch: int
    threads: int
    network: str


def synthetic(run: Run, count: int) -> Tensor:
    """Give pictures of noise as the network takes them, uint8 (count, 3, S, S), on its device."""
    size, generator = run.preprocessing.size, torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator).to(run.device)


def build(run: Run, runtimes: Sequence[str]) -> tuple[dict[str, Factory], dict[str, float]]:
    """Give what builds each runtime's engines, and how far its logits are from those of torch, the first."""
    factories = {name: prepare(name, run.classifier, run.preprocessing.size) for name in runtimes}
    pictures = synthetic(run, _TESTED)
    logits = {name: factory(torch.get_num_threads())(pictures) for name, factory in factories.items()}
    right = logits["torch"]
    scale = np.maximum(1, np.abs(right))
    return factories, {name: float((np.abs(given - right) / scale).max()) for name, given in logits.items()}


def time_network(
    run: Run, factories: dict[str, Factory], batches: Sequence[int], threads: Sequence[int], turns: dict[str, float]
) -> pd.DataFrame:
    """Time each runtime with each batch and number of threads, and a copy of the network beside torch's first.

    `turns` has rounds, seconds and seed of `profiling.interleaved`. A row per call: runtime, batch, threads, network,
    round, seconds.
    """
    twin = prepare("torch", copy.deepcopy(run.classifier), run.preprocessing.size)
    cases = {
        Case(runtime, batch, count, "run"): factory(count)
        for runtime, factory in factories.items()
        for count in threads
        for batch in batches
    }
    cases |= {Case("torch", batch, threads[0], "copy"): twin(threads[0]) for batch in batches}
    pictures = {batch: synthetic(run, batch) for batch in batches}
    jobs = [_job(engine, pictures[case.batch], case.threads) for case, engine in cases.items()]
    timed = interleaved(jobs, int(turns["rounds"]), turns["seconds"], int(turns["seed"]))
    named = pd.DataFrame(list(cases), columns=list(Case._fields)).iloc[timed["job"]].reset_index(drop=True)
    return pd.concat([named, timed[["round", "seconds"]]], axis=1)


def time_files(run: Run, dataset: Dataset, workers: Sequence[int], passes: int, seed: int) -> pd.DataFrame:
    """Time verdicts on files of a dataset, decode included; a row per pass: workers, round, pictures, seconds.

    The settings take turns. Batches that are decoded while workers start are not counted; files are drawn anew for
    each pass, some twice where the dataset is small.
    """
    files, rng = [str(file) for file in files_of(dataset)], np.random.default_rng(seed)
    _pass(run, files, workers[0], rng)  # brings files into the system's cache
    rows = [(count, number, *_pass(run, files, count, rng)) for number in range(passes) for count in workers]
    table = pd.DataFrame(rows, columns=["workers", "round", "pictures", "seconds"])
    return table.astype({"pictures": int})


def _pass(run: Run, files: Sequence[str], workers: int, rng: np.random.Generator) -> tuple[float, float]:
    """Give how many pictures were timed, and their seconds."""
    timed = copy.copy(run)  # it shares the network
    timed.workers = workers
    ahead = workers + 1  # while workers start, each has a batch at the same time
    drawn = np.resize(rng.permutation(len(files)), run.batch_size * (ahead + MEASURED)).tolist()
    waits = np.array(list(arrivals(timed.verdicts([files[row] for row in drawn]))))[ahead:]
    pictures, seconds = waits.sum(axis=0).tolist()
    return pictures, seconds


def _job(engine: Engine, pictures: Tensor, threads: int) -> Job:
    return Job(lambda: engine(pictures), threads)
