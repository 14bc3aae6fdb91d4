"""One spine of trainings: prepare, build, fit and finish, in a locked run folder, with a record of the end."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.config.error_messages import format_error
from avatar_bench.console.progress import use_progress
from avatar_bench.console.terminal import print_line, print_note
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import CheckpointError, ConfigError, DivergedError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.checkpoint_container import BACKBONE_FILE
from avatar_bench.files.hashes import is_signed, sign_text
from avatar_bench.runs.record import PROBE, RECORD, RunRecord, read_record
from avatar_bench.runs.run_config import list_changes, read_run_config, refuse_foreign_choices
from avatar_bench.training.run_folder import CONFIG, choose_run_folder, create_record, lock_folder


@dataclass(frozen=True)
class TrainedRun:
    """Folder of a finished run; as a number, its best val macro-F1, which a search maximises."""

    folder: Path
    macro_f1: float

    def __float__(self) -> float:
        return self.macro_f1


class Job(Protocol):
    """Training of one network on prepared images; each step may set fields of the record."""

    def build(self) -> None:
        """Build the network and its data, and complete the record's description of the training."""

    def fit(self) -> None:
        """Train the network; a resumed job goes on from its newest checkpoint."""

    def finish(self) -> str:
        """Write the final weights and the curves, complete the record, and return a summary."""


def run_job(
    cfg: DictConfig,
    command: str,
    check: Callable[[str, DictConfig], None],
    prepare: Callable[[Any, RunRecord], tuple[Dataset, Dataset]],
    create_job: Callable[[Any, Path, RunRecord, Dataset, Dataset], Job],
) -> tuple[Path, RunRecord]:
    """Run a new or resumed job in its folder and print its summary; return the folder and the record.

    `prepare` reads the images, all and those to train on; `create_job` imports torch. A finished job is left unchanged.
    """
    settings: Any = OmegaConf.to_object(_reopen_config(cfg, command, check) if cfg.resume else cfg)
    settings.resume = cfg.resume
    folder = Path(cfg.resume) if cfg.resume else choose_run_folder(settings, command)
    with lock_folder(folder), use_progress(settings.callbacks.progress):
        record = read_record(folder) if cfg.resume else create_record(folder, cfg, settings, command)
        if record.status == "finished":
            print_note(f"{folder}: already finished, left unchanged.")
            return folder, record
        with _record_end(folder, cfg, record):
            images = prepare(settings, record)  # before torch is loaded and a run folder is made
            _start_record(folder, cfg, record)
            job = create_job(settings, folder, record, *images)
            job.build()
            record.write(folder)
            job.fit()
            summary = job.finish()
        print_line(summary)
        return folder, record


def _reopen_config(typed_config: DictConfig, command: str, check: Callable[[str, DictConfig], None]) -> DictConfig:
    """Read the configuration of an interrupted run; raise ConfigError if a word beside resume= would change it.

    One that this user's own training wrote may choose anything; of another, see `refuse_foreign_choices`.
    """
    folder = Path(typed_config.resume)
    if not (folder / RECORD).is_file() or not (folder / CONFIG).is_file():
        raise CheckpointError(f"resume={folder} is not a run folder.", f"Expected a folder made by {command}.")
    record = read_record(folder)
    if (maker := record.command or "train") != command:
        raise CheckpointError(f"resume={folder} was made by {maker}.", f"avatar-bench {maker} resume={folder}")
    words = [word for word in HydraConfig.get().overrides.task if not word.startswith(("resume=", "profile=", "~mode"))]
    file = folder / CONFIG
    schema: Any = OmegaConf.get_type(typed_config)
    typed: Any = OmegaConf.to_container(typed_config, resolve=True)
    try:
        stored = read_run_config(file)
        cfg: Any = OmegaConf.merge(OmegaConf.structured(schema), stored)
        others = list_changes(words, OmegaConf.to_container(cfg, resolve=True), typed)  # type: ignore[arg-type]
        if not others:
            if not is_signed(file, record.signature):
                refuse_foreign_choices(stored, typed, schema, folder)
            check(command, cfg)
    except (OmegaConfBaseException, ConfigError) as error:
        lines = error.lines if isinstance(error, ConfigError) else str(error).splitlines()
        raise ConfigError(f"{file}: {lines[0].removeprefix(f'{file}: ')}", *lines[1:3]) from error
    if others:
        weights = f"init_from={folder}" if command == "train" else f"model.weights={folder / BACKBONE_FILE}"
        reason = f"resume= uses the run's own configuration; {others[0]} cannot change it."
        raise ConfigError(reason, f"Remove the option, or start a new run from its weights: {weights}")
    return cfg  # type: ignore[no-any-return]


def _start_record(folder: Path, cfg: DictConfig, record: RunRecord) -> None:
    """Write the first record and the configuration into the run folder."""
    record.status, record.error = "running", None
    record.started = record.started or _now()
    record.process = {"host": platform.node(), "pid": os.getpid()}
    text = OmegaConf.to_yaml(cfg, resolve=True)
    if not cfg.resume:
        record.signature = sign_text(text)
    record.write(folder)  # first: by it, the folder is ours, also where the disk is full then
    (folder / "checkpoints").mkdir(exist_ok=True)
    if not cfg.resume:
        write_text(folder / CONFIG, text)


@contextmanager
def _record_end(folder: Path, cfg: DictConfig, record: RunRecord) -> Iterator[None]:
    """Record in run.json how the body of the `with` ended and how long it took."""
    try:
        with record.add_duration("seconds"):
            yield
    except BaseException as error:
        with suppress(OSError):  # on a full disk, the old record stays and the original error is reported
            if record.sweep_job:
                _start_record(folder, cfg, record)
            if (folder / RECORD).is_file():
                record.status = "diverged" if isinstance(error, DivergedError) else "failed"
                record.error = "\n".join(format_error(error)[0])
                if isinstance(error, KeyboardInterrupt | SystemExit):  # Lightning has a SystemExit of its own
                    record.status, kind = "interrupted", type(error)
                    record.error = {KeyboardInterrupt: "Ctrl-C", SystemExit: "SIGTERM"}.get(kind, kind.__name__)
                record.write(folder)
                can_resume = record.mode == PROBE or any(folder.glob("checkpoints/*.ckpt"))
                if record.status == "interrupted" and can_resume and not record.sweep_job:
                    again = f"avatar-bench {record.command or 'train'} resume={shlex.quote(str(folder))}"
                    error.add_note(f"to go on: {again}")
        raise
    record.status, record.finished = "finished", _now()
    record.write(folder)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
