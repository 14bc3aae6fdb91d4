"""The task function that Hydra calls for a command, once per job."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from avatar_bench.config import rules
from avatar_bench.config.catalogue import find_command_module
from avatar_bench.config.entries import use_folders
from avatar_bench.config.error_messages import explain
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.errors import AvatarBenchError

FAILED_JOBS_EXIT_CODE = 3  # exit code of a sweep with a failed job


class JobError(AvatarBenchError):
    """Error of a sweep job, which its task function returns, from any process."""

    exit_code = FAILED_JOBS_EXIT_CODE


class CommandTask:
    """Task function of a command that keeps its value, which Hydra drops, and its error, which Hydra would print.

    A sweep job prints the error after its name and returns a JobError in place of the command's value.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.value: Any = None  # of a single job
        self.errors: list[BaseException] = []

    def __call__(self, cfg: DictConfig) -> Any:
        """Check the options, then import and call the command, so that invalid options fail before torch is loaded."""
        try:
            sources = HydraConfig.get().runtime.config_sources
            with use_folders([each.path for each in sources if each.schema == "file"]):  # of -cd, in another process
                rules.check_config(self.command, cfg)
                name = find_command_module(self.command)
                self.value = getattr(import_module(f"avatar_bench.commands.{name}"), name)(cfg)
                return self.value
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                self.errors.append(error)
                return None
            lines, _ = explain(error)
            name = escape_control_characters(HydraConfig.get().job.override_dirname)
            print(f"{name}: " + "\n".join(lines), file=sys.stderr)
        gc.collect()  # free the memory of the network and batches, which the error's traceback kept, for the next job
        return JobError(*lines)
