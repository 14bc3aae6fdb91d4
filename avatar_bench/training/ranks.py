"""Processes of distributed training, one a device, which a waiting process starts and ends."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers.multiprocessing import _GlobalStateSnapshot, _MultiProcessingLauncher
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

from avatar_bench.console.machine import retain_freed_memory
from avatar_bench.console.signals import block_termination
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.errors import OutputError

_GRACE_SECONDS = 5  # for the other ranks to end by themselves once one has ended early


class RankStrategy(DDPStrategy):
    """Distributed data parallel: gloo on CPU, NCCL on GPUs; a failure of one process ends all.

    Lightning's "ddp" would run the whole command once a device, and its "ddp_spawn" hides the error of a process behind
    its traceback and waits forever after Ctrl-C. Networks with layers that a step does not use are not supported.
    """

    def __init__(self, threads: int | None) -> None:
        super().__init__(cluster_environment=LightningEnvironment())  # also within a SLURM job of one task
        self.threads = threads

    def _configure_launcher(self) -> None:
        self._launcher: Any = _RankLauncher(self)


class _RankLauncher(_MultiProcessingLauncher):
    """Launcher of the ranks; this process writes nothing and handles the signals until they have ended."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Run a function in all ranks; return rank 0's result, or raise the first error (OutputError if killed)."""
        strategy: Any = self._strategy
        os.environ["MASTER_PORT"] = str(strategy.cluster_environment.main_port)
        context = multiprocessing.get_context("spawn")
        answers, errors = context.SimpleQueue(), context.SimpleQueue()
        inputs = (trainer, function, args, kwargs, answers, _GlobalStateSnapshot.capture())
        ranks = [context.Process(target=self._run, args=(errors, k, *inputs)) for k in range(strategy.num_processes)]
        with block_termination():  # inherited: only this process hears Ctrl-C and SIGTERM
            for rank in ranks:
                rank.start()
        try:
            _wait_for_end(ranks)
            if any(rank.exitcode for rank in ranks):
                raise _find_cause(ranks, None if errors.empty() else errors.get(), trainer.default_root_dir)
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        output = answers.get()
        self._recover_results_in_main_process(output, trainer)
        return output.trainer_results

    def _run(self, errors: Any, rank: int, *inputs: Any) -> None:
        """Run one rank; report its error, and end with exit code 1."""
        _prctl_pr_set_pdeathsig(signal.SIGKILL)
        try:
            prepare_process(self._strategy.threads)  # type: ignore[attr-defined]
            self._wrapping_function(rank, *inputs)
        except BaseException as error:
            error.add_note(f"In process {rank}:\n{traceback.format_exc()}")
            errors.put(error)
            for logger in inputs[0].loggers:
                logger.finalize("failed")
            os._exit(1)  # without a traceback, or waiting for threads that wait for other ranks


def _wait_for_end(ranks: Sequence[BaseProcess]) -> None:
    """Wait until all ranks have ended, or for some seconds after one has failed."""
    deadline = math.inf
    while (running := [rank.sentinel for rank in ranks if rank.exitcode is None]) and time.monotonic() < deadline:
        wait(running, None if deadline == math.inf else _GRACE_SECONDS)
        if any(rank.exitcode for rank in ranks):
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)


def _find_cause(ranks: Sequence[BaseProcess], first: BaseException | None, folder: str) -> BaseException:
    """Return the error that ended the ranks, of which `first` was reported first: the others lose their connection."""
    for number, rank in enumerate(ranks):
        if (rank.exitcode or 0) < 0:
            name = signal.Signals(-rank.exitcode).name  # type: ignore[operator]
            return OutputError(
                f"Training process {number} of {len(ranks)} was killed from outside ({name}), which ended the others.",
                "If memory ran out, use a smaller data.batch_size or data.workers=0.",
                f"To go on from the last checkpoint: avatar-bench train resume={folder}",
            )
    return first or OutputError("A training process ended without an error message.")


def prepare_process(threads: int | None) -> None:
    """Set up a process that trains: its threads, its memory allocator and the warnings that it shows."""
    suppress_framework_warnings()
    retain_freed_memory()
    # deterministic algorithms would fill all new memory first: a tenth of a small network's step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    if threads:
        torch.set_num_threads(threads)
