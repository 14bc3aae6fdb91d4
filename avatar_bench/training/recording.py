"""The record of a run as it goes: begun, ended one way or another, and reopened with its own configuration."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.config.error_messages import format_error
from avatar_bench.config.validation import read_run_config
from avatar_bench.errors import CheckpointError, ConfigError, DivergedError
from avatar_bench.files.checkpoint_container import BACKBONE_FILE
from avatar_bench.runs.record import RECORD, read_record, write_record
from avatar_bench.training.run_folder import CONFIG, write_config


def start_record(folder: Path, cfg: DictConfig, record: dict[str, Any]) -> None:
    """Fill the run folder with its configuration and its first record."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    if not cfg.resume:
        write_config(folder, cfg)
    process = {"host": platform.node(), "pid": os.getpid()}
    record |= {"status": "running", "started": record.get("started") or _now(), "error": None, "process": process}
    write_record(folder, record)


@contextmanager
def record_outcome(folder: Path, cfg: DictConfig, record: dict[str, Any]) -> Iterator[None]:
    """Leave in run.json how what is done meanwhile ended, and how long it took."""
    try:
        with record_duration(record, "seconds"):
            yield
    except BaseException as error:
        with suppress(OSError):  # a full disk keeps the record that is there, and the error is the one to be told
            if record.get("sweep_job"):
                start_record(folder, cfg, record)
            if (folder / RECORD).is_file():
                _record_failure(folder, record, error)
        raise
    write_record(folder, record | {"status": "finished", "finished": _now()})


@contextmanager
def record_duration(record: dict[str, Any], name: str) -> Iterator[None]:
    """Add the seconds that what is done meanwhile takes to a figure of the record, however it ends."""
    begun = time.monotonic()
    try:
        yield
    finally:
        record[name] = round(record.get(name, 0.0) + time.monotonic() - begun, 1)


def reopen_config(folder: Path, command: str, schema: type, check: Callable[[DictConfig], None]) -> DictConfig:
    """Give the own configuration of an interrupted run; raise ConfigError where other options are given beside it."""
    if not (folder / RECORD).is_file() or not (folder / CONFIG).is_file():
        raise CheckpointError(f"resume={folder} is not a run folder.", f"Expected a folder made by {command}.")
    if (maker := read_record(folder).get("command", "train")) != command:
        raise CheckpointError(f"resume={folder} was made by {maker}.", f"avatar-bench {maker} resume={folder}")
    others = [item for item in HydraConfig.get().overrides.task if not item.startswith(("resume=", "~mode"))]
    if others:
        raise ConfigError(
            f"resume goes on with the run's own configuration; {others[0]} cannot change it.",
            "Leave it out, or start a new one from its weights: "
            + (f"init_from={folder}" if command == "train" else f"model.weights={folder / BACKBONE_FILE}"),
        )
    file = folder / CONFIG
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(schema), read_run_config(file))
        check(cfg)  # type: ignore[arg-type]
    except (OmegaConfBaseException, ConfigError) as error:
        lines = error.lines if isinstance(error, ConfigError) else str(error).splitlines()
        raise ConfigError(f"{file}: {lines[0].removeprefix(f'{file}: ')}", *lines[1:2]) from error
    return cfg  # type: ignore[return-value]


def _record_failure(folder: Path, record: dict[str, Any], error: BaseException) -> None:
    status = "diverged" if isinstance(error, DivergedError) else "failed"
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning has a SystemExit of its own
        status = "interrupted"
    said = {KeyboardInterrupt: "Ctrl-C", SystemExit: "SIGTERM"}.get(type(error), type(error).__name__)
    record |= {"status": status, "error": said if status == "interrupted" else "\n".join(format_error(error)[0])}
    write_record(folder, record)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
