"""Job: one command as Hydra calls it, once, or once for each job of a sweep."""

from __future__ import annotations

import math
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from avatar_bench import config
from avatar_bench.errors import AvatarBenchError
from avatar_bench.mistakes import explain
from avatar_bench.records import read_records, table

FAILED_JOBS = 3  # exit code of a sweep in which a job failed


class JobError(AvatarBenchError):
    """An error of a job that ran in another process."""

    exit_code = FAILED_JOBS


class Job:
    """Call a command and keep its error: Hydra would print a line of its own, and end a sweep at the first.

    In a launcher's worker process it raises a JobError instead, which the launcher carries home.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.errors: list[BaseException] = []
        self.started = time.time()
        self._process = os.getpid()

    def __call__(self, cfg: DictConfig) -> Any:
        """Check the options before the command is imported: a mistake shows before torch has loaded."""
        try:
            config.check(self.command, cfg)
            return getattr(import_module(f"avatar_bench.commands.{self.command}"), self.command)(cfg)
        except Exception as error:
            if os.getpid() != self._process:
                raise JobError(*explain(error)[0]) from error
            self.errors.append(error)
            _tell(error)
            return math.nan  # what a sweeper that optimises takes for a failed trial

    def finish_sweep(self, folder: Path) -> int:
        """Print what became of the jobs of a sweep of train; give 3 if one failed since this Job was made."""
        records = read_records(folder)
        rows = [("job", "status", "val macro-F1", "seconds")]
        rows += [(str(one.folder.relative_to(folder)), one.status, one.macro_f1, one.seconds) for one in records]
        if records:
            print(table(rows), file=sys.stderr)
        # run.json files of an earlier sweep in this folder are shown, and not counted against this one
        failed = [one for one in records if one.status != "finished" and one.changed >= self.started - 1]
        return FAILED_JOBS if failed or self.errors else 0


def _tell(error: BaseException) -> None:
    """Print an error within a sweep under the name of its job; alone, `__main__` prints it."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        lines, _ = explain(error)
        print(f"{hydra.job.override_dirname}: " + "\n".join(lines), file=sys.stderr)
