"""Record of a running job: its start, its outcome, and resuming with its own configuration."""

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
    """Write the configuration and the first record into the run folder."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    if not cfg.resume:
        write_config(folder, cfg)
    process = {"host": platform.node(), "pid": os.getpid()}
    record |= {"status": "running", "started": record.get("started") or _now(), "error": None, "process": process}
    write_record(folder, record)


@contextmanager
def record_outcome(folder: Path, cfg: DictConfig, record: dict[str, Any]) -> Iterator[None]:
    """Record in run.json how the body of the `with` ended and how long it took."""
    try:
        with record_duration(record, "seconds"):
            yield
    except BaseException as error:
        with suppress(OSError):  # on a full disk, the old record stays and the original error is reported
            if record.get("sweep_job"):
                start_record(folder, cfg, record)
            if (folder / RECORD).is_file():
                _record_failure(folder, record, error)
        raise
    write_record(folder, record | {"status": "finished", "finished": _now()})


@contextmanager
def record_duration(record: dict[str, Any], name: str) -> Iterator[None]:
    """Add the duration of the body of the `with`, in seconds, to an entry of the record, even if it fails."""
    started = time.monotonic()
    try:
        yield
    finally:
        record[name] = round(record.get(name, 0.0) + time.monotonic() - started, 1)


def reopen_config(folder: Path, command: str, schema: type, check: Callable[[DictConfig], None]) -> DictConfig:
    """Read the configuration of an interrupted run; raise ConfigError if other options are given with resume=."""
    if not (folder / RECORD).is_file() or not (folder / CONFIG).is_file():
        raise CheckpointError(f"resume={folder} is not a run folder.", f"Expected a folder made by {command}.")
    if (maker := read_record(folder).get("command", "train")) != command:
        raise CheckpointError(f"resume={folder} was made by {maker}.", f"avatar-bench {maker} resume={folder}")
    others = [item for item in HydraConfig.get().overrides.task if not item.startswith(("resume=", "~mode"))]
    if others:
        raise ConfigError(
            f"resume= uses the run's own configuration; {others[0]} cannot change it.",
            "Remove the option, or start a new run from its weights: "
            + (f"init_from={folder}" if command == "train" else f"model.weights={folder / BACKBONE_FILE}"),
        )
    file = folder / CONFIG
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(schema), read_run_config(file))
        check(cfg)  # type: ignore[arg-type]
    except (OmegaConfBaseException, ConfigError) as error:
        lines = error.lines if isinstance(error, ConfigError) else str(error).splitlines()
        raise ConfigError(f"{file}: {lines[0].removeprefix(f'{file}: ')}", *lines[1:3]) from error
    return cfg  # type: ignore[return-value]


def _record_failure(folder: Path, record: dict[str, Any], error: BaseException) -> None:
    status = "diverged" if isinstance(error, DivergedError) else "failed"
    if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning has a SystemExit of its own
        status = "interrupted"
    cause = {KeyboardInterrupt: "Ctrl-C", SystemExit: "SIGTERM"}.get(type(error), type(error).__name__)
    record |= {"status": status, "error": cause if status == "interrupted" else "\n".join(format_error(error)[0])}
    write_record(folder, record)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
