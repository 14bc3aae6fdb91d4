"""Job: one command as Hydra calls it, once, or once for each job of a sweep."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from avatar_bench.config import schema
from avatar_bench.config.error_messages import explain
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.errors import AvatarBenchError

FAILED_JOBS_EXIT_CODE = 3  # exit code of a sweep in which a job failed


class JobError(AvatarBenchError):
    """An error of a job of a sweep, whichever process it ran in."""

    exit_code = FAILED_JOBS_EXIT_CODE


class CommandTask:
    """Call a command and keep its error, which Hydra would print in lines of its own.

    A job of a sweep prints it under the name of the job and raises a JobError, which a launcher carries home from
    another process.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.errors: list[BaseException] = []

    def __call__(self, cfg: DictConfig) -> Any:
        """Check the options before the command is imported: a mistake shows before torch has loaded."""
        try:
            schema.check_config(self.command, cfg)
            return getattr(import_module(f"avatar_bench.commands.{self.command}"), self.command)(cfg)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                self.errors.append(error)
                return None
            lines, _ = explain(error)
            name = escape_control_characters(HydraConfig.get().job.override_dirname)
            print(f"{name}: " + "\n".join(lines), file=sys.stderr)
        gc.collect()  # the job's network and batches, that the next may have their memory
        raise JobError(*lines)  # without the error, whose traceback would keep them
