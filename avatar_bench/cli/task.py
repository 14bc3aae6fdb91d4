"""The task function that Hydra calls for a command, once per job."""

from __future__ import annotations

import gc
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from avatar_bench.cli.profile import profile_command
from avatar_bench.config import rules
from avatar_bench.config.entries import find_entry, find_plugins, use_folders
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
            folders = [source.path for source in sources if source.schema == "file"]  # of -cd, in another process
            plugins = {str(plugin.folder) for plugin in find_plugins().values()}
            with use_folders([folder for folder in folders if folder not in plugins]):
                rules.check_config(self.command, cfg)
                if (profile := cfg.get("profile")) is not None:
                    cfg.profile = None  # it is of this call, not of what the command makes
                with profile_command(profile):
                    self.value = find_entry("command", self.command).load().execute(_make_options(cfg))
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


def _make_options(cfg: DictConfig) -> Any:
    """Return the dataclass of a configuration; the options of blocks are plain values, which the blocks check."""
    if "block" not in cfg:
        return OmegaConf.to_object(cfg)
    cfg, blocks = cfg.copy(), OmegaConf.to_container(cfg.block, resolve=True)
    cfg.block = {}
    options: Any = OmegaConf.to_object(cfg)
    options.block = blocks
    return options
