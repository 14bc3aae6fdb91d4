"""Run folders: their names, locks and records of a training, and resuming jobs of a sweep."""

from __future__ import annotations

import datetime
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.config.overrides import name_job
from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, tabulate_split
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.errors import CheckpointError, ConfigError, GuardError, OutputError
from avatar_bench.files.output_folder import LockedError, exclusive_lock, refuse_foreign_folder, refuse_outward_links
from avatar_bench.files.paths import find_unused_folder, make_folder_name
from avatar_bench.files.table_io import write_table
from avatar_bench.runs.record import RECORD, RECORD_KEYS, UNFINISHED_STATUSES, RunRecord, read_record
from avatar_bench.runs.run_config import flatten_options, read_run_config
from avatar_bench.sources.dataset_kinds import list_further_sets, open_dataset

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainConfig

CONFIG, LOCK = "config.yaml", "run.lock"
# options that do not change the weights
IGNORED_OPTIONS = ("out", "lang", "callbacks.progress", "callbacks.save_minutes", "data.workers", "data.cache_gb")


def choose_run_folder(settings: Any, command: str) -> Path:
    """Return the folder of a new job: below that of its sweep, or `out`, or a new one named by model, mode and time."""
    hydra, root = HydraConfig.get(), Path("runs" if command == "train" else "pretrained")
    if hydra.mode == RunMode.MULTIRUN:
        words = [word for word in hydra.overrides.task if not word.startswith("~mode")]  # that of pretrain
        sweeps = hydra.sweep.dir if command == "train" else settings.out
        return Path(sweeps or root) / name_job(words, hydra.job.config.override_dirname.exclude_keys)
    if settings.out:
        return Path(settings.out)
    record = _describe_job(settings, command)
    name = make_folder_name(f"{record.name}-{record.mode or record.method}")
    return find_unused_folder(root / name / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def create_record(folder: Path, cfg: DictConfig, settings: Any, command: str) -> RunRecord:
    """Return the first record of a new job, or the record of an earlier one in the same folder.

    For a training of a sweep whose folder has the same configuration: a finished run is kept, an interrupted or killed
    one is resumed (`settings.resume` is set), a failed or diverged one starts again. Raises ConfigError if the folder
    has another run, GuardError if a finished run was trained on other images.
    """
    record = _describe_job(settings, command)
    if not (folder / RECORD).is_file():
        return record
    earlier = read_record(folder)
    if earlier.status in UNFINISHED_STATUSES and not any((folder / "checkpoints").glob("*.ckpt")):
        return record
    if not record.sweep_job:
        raise ConfigError(
            f"out: {folder} already contains a run with status {earlier.status or 'unknown'}.",
            f"Choose another out=DIR, or resume that run: avatar-bench {earlier.command or command} resume={folder}",
        )
    _refuse_other_options(folder, cfg, type(settings))
    if earlier.status != "finished":
        return _resume_job(folder, earlier, settings) or record
    if earlier.data.get("fingerprint") not in (None, open_dataset(settings.data).fingerprint):
        reason = f"{folder} was trained on other images than data={settings.data.kind} now contains."
        raise GuardError(reason, "Restore them, or train all jobs on the new images in another folder: out=DIR")
    return earlier


def _describe_job(settings: Any, command: str) -> RunRecord:
    """Return the first record of a job; its name is that of the experiment, else of the model."""
    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    model, experiment = choices.get("model") or "timm", choices.get("experiment")
    record = RunRecord(
        status="running",
        name=str(experiment or (model if model != "timm" else settings.model.backbone)),
        model=model,
        experiment=experiment,
        sweep=choices.get("sweep"),
        seed=settings.seed,
        allow=sorted(settings.allow),
        git=_read_git_commit(),
    )
    if command == "train":
        chosen = {"mode": settings.mode.name, "augmentation": choices.get("augmentation")}
        return replace(record, **chosen, sweep_job=hydra.mode == RunMode.MULTIRUN)
    return replace(record, command=command, method=settings.method.name)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Create and lock a run's folder inside the `with`; folders created here are removed at the end if empty.

    The lock of a dead process is taken over with a warning. Raises DataError if the folder holds something else than a
    run, OutputError if another process holds the lock, or if it cannot be written.
    """
    refuse_foreign_folder(folder, RECORD, RECORD_KEYS, LOCK)
    refuse_outward_links(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]

    def remove_empty() -> None:
        with suppress(OSError):  # stop at the first folder that is not empty
            for path in created:
                path.rmdir()

    with ExitStack() as stack:
        stack.callback(remove_empty)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stale = (folder / LOCK).exists()
            stack.enter_context(exclusive_lock(folder / LOCK))
        except LockedError as error:
            reason = f"{folder}: {_name_owner(folder)} is training there."
            raise OutputError(reason, "Wait for it, or stop it.") from error
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror}."
            raise OutputError(reason, "Choose a folder with write permission: out=DIR") from error
        if stale:
            owner = _name_owner(folder)
            print_note(f"warning: {folder}: {owner} was training there and has ended; taking over its lock")
        yield


def _name_owner(folder: Path) -> str:
    try:
        owner = read_record(folder).process
        return f"process {owner['pid']} on {owner['host']}"
    except (CheckpointError, KeyError):
        return "another process"


def format_next_command(folder: Path, hydra: Any = None) -> str:
    """Return the command that evaluates a run, or a sweep of which `hydra` is Hydra's configuration, with its -cd."""
    if hydra is None and HydraConfig.initialized():
        hydra = HydraConfig.get()
    sources = hydra.runtime.config_sources if hydra else ()
    flags = [f"-cd {shlex.quote(source.path)}" for source in sources if source.provider == "command-line"]
    return " ".join(["avatar-bench evaluate", *flags, shlex.quote(f"ckpt={folder}")])


def _refuse_other_options(folder: Path, cfg: DictConfig, schema_class: type) -> None:
    """Raise ConfigError naming the options if a folder has a run with another configuration."""
    schema = OmegaConf.structured(schema_class)  # an option newer than the run gets its default
    options: Any = OmegaConf.to_container(OmegaConf.merge(schema, cfg), resolve=True)
    try:
        stored = OmegaConf.to_container(OmegaConf.merge(schema, read_run_config(folder / CONFIG)), resolve=True)
        theirs = flatten_options(stored)
    except OmegaConfBaseException as error:
        reason = f"{folder} contains a run whose {CONFIG} cannot be read: {str(error).splitlines()[0]}."
        raise ConfigError(reason, "Remove the folder to train again, or choose another: out=DIR") from error
    ours = flatten_options(options)
    other = [key for key in {**ours, **theirs} if key not in IGNORED_OPTIONS and ours.get(key) != theirs.get(key)]
    if other:
        changes = [f"{key} is {theirs.get(key)} there, {ours.get(key)} here" for key in other[:3]]
        raise ConfigError(
            f"{folder} contains a run with another configuration: {'; '.join(changes)}{'; ...' * (len(other) > 3)}.",
            "Choose another out=DIR for this sweep, or remove that run.",
        )


def _resume_job(folder: Path, earlier: RunRecord, settings: TrainConfig) -> RunRecord | None:
    """Set `settings.resume` and return the record if the job can be resumed; else clear its folder and return None."""
    from avatar_bench.models import checkpoint  # imports torch, which this job needs now

    names = (checkpoint.LAST_CHECKPOINT, checkpoint.PREVIOUS_CHECKPOINT)
    intact = any(checkpoint.is_intact(folder / "checkpoints" / name) for name in names)
    if earlier.status in ("running", "interrupted") and intact and earlier.stages:
        settings.resume = str(folder)
        print_note(f"{folder}: resuming from its last checkpoint.")
        return earlier
    for name in ("checkpoints", "predictions", "evaluation", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "metrics.csv").unlink(missing_ok=True)
    return None


def _read_git_commit() -> str | None:
    """Return the commit checked out in GIT_DIR or in the working folder; None outside a git checkout."""
    head = Path(os.environ.get("GIT_DIR", ".git")) / "HEAD"
    try:
        text = head.read_text(encoding="utf-8").strip()
        return (head.parent / text[5:]).read_text(encoding="utf-8").strip() if text.startswith("ref: ") else text
    except OSError:
        return None


def keep_split(dataset: Dataset, folder: Path, record: RunRecord) -> None:
    """Write split.csv, and its fingerprint into the record; raise GuardError if that has another one."""
    fingerprint = fingerprint_split(dataset)
    if record.split.get("fingerprint", fingerprint) != fingerprint:
        reason = f"resume={folder}: the images or their split have changed since the run was started."
        raise GuardError(reason, "Restore them, or start a new run.")
    write_table(tabulate_split(dataset), folder / "split.csv")
    record.split["fingerprint"] = fingerprint


def describe_data(settings: TrainConfig, whole: Dataset, dataset: Dataset) -> dict[str, Any]:
    """Return the record of the images of a training on `dataset`, a subset of `whole`, and of its further sets."""
    # absolute paths, so that `evaluate` finds the sets from any folder
    sets = {name: str(path.absolute()) for name, path in list_further_sets(settings.data, dataset.root).items()}
    return {
        "kind": settings.data.kind,
        "blind": sets.pop("blind", None),
        "ood": sets,
        "root": str(dataset.root.absolute()),
        "fingerprint": whole.fingerprint,
    }


def report_counts(dataset: Dataset, classes: tuple[str, ...], settings: TrainConfig) -> None:
    """Print the counts of images by split and class, and warn of those that are missing."""
    table = pd.crosstab(dataset.frame["label"], dataset.frame["split"]).reindex(classes).fillna(0).astype(int)
    print_note(f"{format_count(len(dataset), 'image')} of {dataset.name} by class (balance: {settings.mode.balance})")
    for split in (split for split in DATASET_SPLITS if split in table):
        print_note(f"  {split}: {', '.join(f'{name} {n}' for name, n in table[split].items())}")
    shots = settings.mode.shots
    if shots and (fewest := int(table["train"].min())) < shots:
        print_note(f"warning: {format_count(fewest, 'shot')} per class instead of {shots}")
    for split in ("val", "calibration", "test"):
        missing = [name for name in classes if split not in table or table.at[name, split] == 0]
        # without any calibration image, the temperature has a warning of its own
        if missing and (split in table or split != "calibration"):
            is_chosen = split == "test" and settings.data.split.held_out
            again = "hold out some" if is_chosen else "split again: data.split.by=group data.split.folds=3"
            print_note(f"warning: no {split} image of {', '.join(missing)}: add some, or {again}")
