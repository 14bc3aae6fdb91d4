"""Folders of runs: which one a training has, what lies there already, and who may write there."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.config.overrides import name_job
from avatar_bench.config.validation import read_run_config
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import CheckpointError, ConfigError, GuardError, OutputError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.lock import LockedError, exclusive_lock
from avatar_bench.files.paths import find_unused_folder, make_folder_name
from avatar_bench.runs.record import RECORD, UNFINISHED_STATUSES, read_record
from avatar_bench.sources.dataset_kinds import open_dataset

if TYPE_CHECKING:
    from avatar_bench.config.schema import TrainConfig

CONFIG, LOCK = "config.yaml", "run.lock"
# options that change no weight
IGNORED_OPTIONS = ("out", "lang", "callbacks.progress", "callbacks.save_minutes", "data.workers", "data.cache_gb")


def choose_run_folder(settings: TrainConfig) -> Path:
    """Give the folder that a run is to have: a job of a sweep within the sweep's, `out`, or one named by the time."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        shared = hydra.job.config.override_dirname.exclude_keys
        return Path(hydra.sweep.dir) / name_job(hydra.overrides.task, shared)
    if settings.out:
        return Path(settings.out)
    name = make_folder_name(f"{_name_run(settings)}-{settings.mode.name}")
    return find_unused_folder(Path("runs") / name / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def is_free(folder: Path) -> bool:
    """Say whether a folder holds no run, or one that ended before its first checkpoint."""
    if not (folder / RECORD).is_file():
        return True
    return read_record(folder).get("status") in UNFINISHED_STATUSES and not any((folder / "checkpoints").glob("*.ckpt"))


def build_taken_error(folder: Path, command: str) -> ConfigError:
    """Say that a folder holds a run that would be lost."""
    earlier = read_record(folder)
    return ConfigError(
        f"out: {folder} holds a run already, status {earlier.get('status', 'unknown')}.",
        f"Choose another out=DIR, or go on with it: avatar-bench {earlier.get('command', command)} resume={folder}",
    )


def create_record(folder: Path, cfg: DictConfig, settings: TrainConfig) -> dict[str, Any]:
    """Give the first record of a run in a folder, or the record of an earlier run that is left as it is.

    A job of a sweep whose folder holds the same configuration is left as it is where it is finished, goes on where it
    was interrupted or killed (`settings.resume` is set), and begins anew where it failed or diverged. Raise ConfigError
    where the folder holds another run, GuardError where a finished one saw other images.
    """
    choices, sweeping = HydraConfig.get().runtime.choices, HydraConfig.get().mode == RunMode.MULTIRUN
    record: dict[str, Any] = {
        "status": "running",
        "name": _name_run(settings),
        "model": choices.get("model") or "timm",
        "mode": settings.mode.name,
        "experiment": choices.get("experiment"),
        "sweep": choices.get("sweep"),
        "sweep_job": sweeping,
        "seed": settings.seed,
        "git": read_git_commit(),
    }
    if is_free(folder):
        return record
    if not sweeping:
        raise build_taken_error(folder, "train")
    _refuse_other_options(folder, cfg)
    earlier = read_record(folder)
    if earlier.get("status") == "finished":
        _refuse_other_images(folder, earlier, settings)
        return earlier
    return _resume_job(folder, earlier, settings) or record


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from a run's folder meanwhile, and make it where there is none; an empty one goes again.

    The lock of a process that has died is taken over, with a warning: the system has let go of it. Raise OutputError
    where another process holds it, or the folder cannot be made or written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            left = (folder / LOCK).exists()
            stack.enter_context(exclusive_lock(folder / LOCK))
        except LockedError as error:
            raise OutputError(
                f"{folder}: {_name_owner(folder)} is training there.", "Wait for it, or stop it."
            ) from error
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written: {error.strerror}.", "A run needs a folder that you may write to."
            ) from error
        if left:
            print(
                f"warning: {folder}: {_name_owner(folder)} trained there and is gone; its lock is taken over",
                file=sys.stderr,
            )
        yield


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # the first that holds something
        for folder in folders:
            folder.rmdir()


def _name_owner(folder: Path) -> str:
    """Name the process that has written a run's record last."""
    try:
        owner = read_record(folder)["process"]
        return f"process {owner['pid']} on {owner['host']}"
    except (CheckpointError, KeyError, TypeError):
        return "another process"


def write_config(folder: Path, cfg: DictConfig) -> None:
    """Write the resolved configuration, complete or not at all."""
    write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def _name_run(settings: TrainConfig) -> str:
    """Name a run by its experiment, else by its model."""
    choices = HydraConfig.get().runtime.choices
    model = choices.get("model") or "timm"
    return str(choices.get("experiment") or (model if model != "timm" else settings.model.backbone))


def _refuse_other_options(folder: Path, cfg: DictConfig) -> None:
    """Raise ConfigError, naming the options, where a folder holds a run of another configuration."""
    schema = OmegaConf.structured(TrainConfig)  # options that are younger than the run have their defaults there
    try:
        kept = _flatten(OmegaConf.to_container(OmegaConf.merge(schema, read_run_config(folder / CONFIG)), resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{folder} holds a run whose {CONFIG} cannot be read: {str(error).splitlines()[0]}.",
            "Remove the folder to train it anew, or choose another: out=DIR",
        ) from error
    asked = _flatten(OmegaConf.to_container(OmegaConf.merge(schema, cfg), resolve=True))
    other = [key for key in {**asked, **kept} if key not in IGNORED_OPTIONS and asked.get(key) != kept.get(key)]
    if other:
        said = [f"{key} is {kept.get(key)} there, {asked.get(key)} here" for key in other[:3]]
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(said)}{'; ...' * (len(other) > 3)}.",
            "Choose another folder for this sweep, out=DIR, or remove that run.",
        )


def _flatten(values: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {key: values}
    inside = (_flatten(value, f"{key}.{name}".strip(".")) for name, value in values.items())
    return {path: value for part in inside for path, value in part.items()}


def _refuse_other_images(folder: Path, earlier: Mapping[str, Any], settings: TrainConfig) -> None:
    """Raise GuardError where the images have changed since a run: its figures would stand beside others' in vain."""
    trained_on = (earlier.get("data") or {}).get("fingerprint")
    if trained_on not in (None, open_dataset(settings.data).fingerprint):
        raise GuardError(
            f"{folder} was trained before, on other images than data={settings.data.kind} names now.",
            "Restore them, or train all jobs on the new ones in another folder: out=DIR",
        )


def _resume_job(folder: Path, earlier: dict[str, Any], settings: TrainConfig) -> dict[str, Any] | None:
    """Have an interrupted or killed job go on from its last checkpoint; clear away what cannot be gone on with."""
    from avatar_bench.models.checkpoint import (  # imports torch, which this job needs now
        LAST_CHECKPOINT,
        PREVIOUS_CHECKPOINT,
        is_intact,
    )

    kept = [name for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT) if is_intact(folder / "checkpoints" / name)]
    if earlier.get("status") in ("running", "interrupted") and kept and earlier.get("stages"):
        settings.resume = str(folder)
        print_line(f"{folder}: goes on from its last checkpoint.", file=sys.stderr)
        return earlier
    for name in ("checkpoints", "predictions", "evaluation", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "metrics.csv").unlink(missing_ok=True)
    return None


def read_git_commit() -> str | None:
    """Give the commit that GIT_COMMIT or the checkout around the working folder names."""
    head = Path(os.environ.get("GIT_DIR", ".git")) / "HEAD"
    try:
        text = head.read_text(encoding="utf-8").strip()
        return (head.parent / text[5:]).read_text(encoding="utf-8").strip() if text.startswith("ref: ") else text
    except OSError:
        return None
