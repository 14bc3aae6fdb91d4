"""Run records (run.json) and run folders, read without opening a checkpoint."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len

from avatar_bench.config.entries import explain_missing, find_entries, find_entry
from avatar_bench.console.terminal import escape_control_characters, print_note
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.checkpoint_container import BACKBONE_FILE, refuse_address
from avatar_bench.files.document import OpenDocument, parse, read_json, read_yaml
from avatar_bench.files.output_folder import refuse_outward_links
from avatar_bench.models.card_schema import Classes, Positive

RECORD = "run.json"
RECORD_KEYS = ("status", "git")  # of every run.json that this package has written
ENSEMBLE = "ensemble.json"
REBUILD_HINT = "Build it again: avatar-bench evaluate ckpt=FOLDER block=ensemble"
MAX_MEMBERS = 1000  # of an ensemble
BEST_CHECKPOINT = "best.ckpt"
SHARED_WEIGHTS = "model.safetensors"  # in the folder of a run that was shared, instead of checkpoints/
IMPORTED = "imported"  # status of such a run
USABLE_STATUSES = ("finished", IMPORTED)
METRIC = "val/macro_f1"
PROBE = "probe"  # the mode that is solved instead of trained in epochs
RESERVED_SET_NAMES = ("train", "val", "calibration", "test", "blind", "all")  # that further data sets may not have
UNFINISHED_STATUSES = ("failed", "interrupted", "diverged")  # final statuses of runs that did not finish
SCHEMA = 1  # of run.json: raised when a key changes its meaning
_WRITTEN_AS_NULL = ("git", "experiment", "sweep", "error")  # other fields that are not known yet are left out


@dataclass
class RunRecord(OpenDocument):
    """Record of one training or pretraining: the content of its run.json, filled in as the job proceeds.

    A field that is None or an empty dictionary is not known yet, or does not apply to the command.
    """

    schema: int | None = SCHEMA  # None: written by 0.3.0 or earlier, with the same keys
    # how the job ended
    status: str | None = None  # running, finished, interrupted, failed or diverged; imported
    started: str | None = None  # first start, ISO 8601 with the offset from UTC
    finished: str | None = None  # likewise
    seconds: float | None = None  # of the whole command, in all attempts
    train_seconds: float | None = None  # of fitting alone, including validation
    error: str | None = None  # lines of the error that ended the job
    signature: str | None = None  # of config.yaml, by a key of the user whose training wrote it
    process: dict[str, Any] = field(default_factory=dict)  # the last one: host, pid
    # what was asked
    command: str | None = None  # pretrain; None: train
    name: str | None = None  # of the experiment, else of the model
    model: str | None = None  # choice of model=
    mode: str | None = None  # choice of mode=; of train
    augmentation: str | None = None  # choice of augmentation=; of train
    method: str | None = None  # choice of method=; of pretrain
    experiment: str | None = None  # choice of experiment=
    sweep: str | None = None  # choice of sweep=
    sweep_job: bool | None = None  # whether the job belongs to a sweep
    seed: int | None = None
    allow: list[str] | None = None  # guards that were turned off
    # what it was trained with
    git: str | None = None  # commit of the working folder
    versions: dict[str, str] = field(default_factory=dict)  # of this package, Python and the libraries
    device: dict[str, Any] = field(default_factory=dict)  # accelerator, precision, threads, workers
    # initial weights: weights, licence, sha256, ancestors; from pretrain also method, epochs, images, images_sha256,
    # root; with a teacher also teacher: run, sha256, licence
    init: dict[str, Any] = field(default_factory=dict)
    # what it was trained on
    data: dict[str, Any] = field(default_factory=dict)  # kind, root, fingerprint; of train also blind, ood
    # fields of SplitPlan, fingerprint, counts of images by split; of train also train_counts by class
    split: dict[str, Any] = field(default_factory=dict)
    classes: list[str] | None = None  # in the order of the outputs
    images: dict[str, Any] = field(default_factory=dict)  # of pretrain: learned_from, kept_out, unlabelled, earlier
    images_sha256: str | None = None  # of pretrain: list of images used
    # how it was trained
    balance: str | None = None  # classes by sampler, loss or none
    batch_size: int | None = None
    passes_per_step: int | None = None  # 2 with SAM
    resembles: list[str] | None = None  # corruptions and delivery tiers of robustness, by the augmentation; of train
    # stage (from 1), unfreeze, epochs, lr, trained_parameters, first and last of these, cached_views (0: no features)
    stages: list[dict[str, Any]] | None = None
    # of mode=probe: C, layers, features (their number), copies of each image, folds, folds_by, computed (features that
    # were not cached)
    probe: dict[str, Any] = field(default_factory=dict)
    # what came of it
    temperature: float | None = None  # that is applied
    # of the temperature: fitted, low and high end of its interval, n of images, applied (if not, 1 is), why_not
    temperature_fit: dict[str, Any] = field(default_factory=dict)
    checkpoint_sha256: str | None = None
    weights_sha256: str | None = None  # of the tensors of best.ckpt; of pretrain: of backbone.safetensors
    best_epoch: int | None = None  # numbered across all stages
    # of the epoch of best.ckpt: by (val/macro_f1 or last epoch), n of val images; not of mode=probe
    chosen_by: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # of the best epoch; of pretrain: of the last probe
    before: dict[str, float] = field(default_factory=dict)  # of pretrain: the probe before training
    # of an imported detector, whose checkpoint_sha256 is that of everything that was imported
    kind: str | None = None  # choice of kind=
    licence: str | None = None
    source: str | None = None  # where it comes from, in words
    detector: dict[str, Any] = field(default_factory=dict)  # settings of its predictor, see inference/detectors
    class_map: dict[str, Any] = field(default_factory=dict)  # as given: of its own class names to those of data sets
    trained_on: dict[str, Any] | None = None  # n, root, images_sha256 of the list of images; None: unknown

    def write(self, folder: Path) -> None:
        """Write the run folder's run.json atomically."""
        self.schema = SCHEMA
        values = vars(self).items()
        kept = {name: value for name, value in values if name in _WRITTEN_AS_NULL or value not in (None, {})}
        write_text(folder / RECORD, json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @contextmanager
    def add_duration(self, name: str) -> Iterator[None]:
        """Add the duration of the body of the `with`, in seconds, to a field, even if it fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            setattr(self, name, round((getattr(self, name) or 0.0) + time.monotonic() - started, 1))


@dataclass(frozen=True)
class MemberRecord(OpenDocument):
    """Member of an ensemble: the path of its run from the ensemble's folder, its weight and its temperature."""

    run: str
    checkpoint_sha256: str
    weight: Positive
    temperature: Positive


@dataclass(frozen=True)
class EnsembleRecord(OpenDocument):
    """Content of an ensemble.json; the common temperature comes after those of the members."""

    kind: Literal["ensemble", "soup"]
    members: Annotated[tuple[MemberRecord, ...], Len(1, MAX_MEMBERS)]
    temperature: Positive
    classes: Classes
    temperature_fit: dict[str, Any] | None = None


@dataclass(frozen=True)
class ListedRun:
    """Run folder with its record, empty if that is unreadable, and `changed`, its time in seconds since 1970."""

    folder: Path
    changed: float
    record: RunRecord

    @property
    def status(self) -> str:
        """Return the status: running, finished, interrupted, failed, diverged, or unreadable."""
        return self.record.status or "unreadable"

    @property
    def numbers(self) -> tuple[str, str, str]:
        """Return val macro-F1 with four decimals, the number of val images, and whole seconds; dashes if unknown."""
        record, counts = self.record, self.record.split.get("counts")
        n_val = counts.get("val") if isinstance(counts, dict) else None
        stated = (record.metrics.get(METRIC), ".4f"), (n_val, ".0f"), (record.seconds, ".0f")
        f1, n, seconds = (format(number, form) if isinstance(number, int | float) else "-" for number, form in stated)
        return f1, n, seconds

    def choice(self, group: str, key: str) -> str:
        """Return a name from run.json, else from the run's config.yaml, else a dash."""
        value = getattr(self.record, group, None) or read_config(self.folder).get(group)
        return str((value.get(key) if isinstance(value, dict) else value) or "-")


def read_records(root: Path) -> list[ListedRun]:
    """Read the records of runs at a folder or up to two levels below it, sorted by folder."""
    records = []
    for file in sorted(file for pattern in ("", "*/", "*/*/") for file in root.glob(f"{pattern}{RECORD}")):
        record = RunRecord()
        with suppress(CheckpointError):  # of a run that was killed while writing
            record = read_record(file.parent)
        records.append(ListedRun(file.parent, file.stat().st_mtime, record))
    return records


def locate_checkpoint(path: Path, option: str = "ckpt") -> tuple[Path, Path | None]:
    """Return the checkpoint file and the run folder of a path; the folder is None for a file outside a run folder.

    The path may be a run folder (its best checkpoint is used, or the weights of a shared run), a .ckpt file or an
    exported .safetensors file. Raises CheckpointError for anything else.
    """
    refuse_address(str(path), option)
    if is_run_address(str(path)) and not os.path.lexists(path):
        reason = f"{option}={path} is an address, but the images of the run and their split are needed."
        raise CheckpointError(reason, "Expected a run folder of this machine. See: avatar-bench list runs")
    if os.path.isdir(path):
        if not (path / RECORD).is_file():
            raise CheckpointError(
                f"{option}={path} is not a run folder: it has no {RECORD}.",
                "Expected a folder made by train, or a .ckpt file. See: avatar-bench list runs",
            )
        record = read_record(path)
        if record.status == IMPORTED:
            raise CheckpointError(
                f"{option}={path} is an imported detector, which has no checkpoint.",
                "It can be evaluated, but not exported or trained.",
            )
        if record.command == "pretrain":
            raise CheckpointError(
                f"{option}={path} is a pretrained backbone without a classifier.",
                f"Train from it first: avatar-bench train model.weights={path / BACKBONE_FILE}",
            )
        for checkpoint in (path / "checkpoints" / BEST_CHECKPOINT, path / SHARED_WEIGHTS):
            if os.path.isfile(checkpoint):
                return checkpoint, path
        raise CheckpointError(
            f"{path} has no checkpoints/best.ckpt; its status is {record.status or 'unknown'}.",
            f"Once no training runs there, finish it with: avatar-bench train resume={path}",
        )
    if not os.path.isfile(path):
        problem = "is neither a file nor a folder" if os.path.lexists(path) else "does not exist"
        raise CheckpointError(
            f"{option}={path} {problem}.",
            "Expected a run folder, a .ckpt or an exported .safetensors file. See: avatar-bench list runs",
        )
    folder = path.parent.parent
    inside = path.parent.name == "checkpoints" and (folder / RECORD).is_file()
    return path, folder if inside else None


def check_run(path: Path) -> None:
    """Raise CheckpointError if a path is not a run folder, a .ckpt file or an ensemble's folder."""
    if not os.path.isfile(path / ENSEMBLE) and not is_imported(path):
        locate_checkpoint(path)


def list_licences(record: RunRecord) -> list[str]:
    """Return the known licences of a detector, or of the initial weights and the teacher of a run, each once."""
    licences = (record.licence, record.init.get("licence"), (record.init.get("teacher") or {}).get("licence"))
    return list(dict.fromkeys(str(licence) for licence in licences if licence))


def is_imported(path: Path) -> bool:
    """Return whether a path is the run folder of an imported detector."""
    return os.path.isfile(path / RECORD) and read_record(path).status == IMPORTED


def find_runs(root: Path) -> list[Path]:
    """Find the run folders below a folder, newest last, no pretrainings; print and skip those that cannot be read."""
    folders = [file.parent for file in root.rglob(RECORD)] if root.is_dir() else []
    records = {}
    for folder in folders:
        try:
            records[folder] = read_record(folder)
        except CheckpointError as error:
            print_note(f"skipped: {error.lines[0]}")
    runs = [folder for folder, record in records.items() if record.command != "pretrain"]
    return sorted(runs, key=lambda folder: (records[folder].started or "", str(folder)))


def choose_newest_run(root: Path = Path("runs")) -> Path:
    """Return the newest run folder below `root` with a best checkpoint and name it on stderr.

    Raise CheckpointError if there is none.
    """
    runs = [folder for folder in find_runs(root) if (folder / "checkpoints" / BEST_CHECKPOINT).is_file()]
    if not runs:
        raise CheckpointError(f"There is no run with a checkpoint below {root}/.", "Train one first, or set ckpt=RUN")
    print_note(f"ckpt={runs[-1]} (the newest run)")
    return runs[-1]


def choose_run(ckpt: str | None) -> Path:
    """Return the path of the run that ckpt= names, by default of the newest; raise CheckpointError if it is no run."""
    path = locate_run(ckpt) if ckpt else choose_newest_run()
    check_run(path)  # fail before torch is loaded
    return path


def locate_run(address: str, option: str = "ckpt") -> Path:
    """Return a path, or the folder of the run at an address such as hf:OWNER/NAME, fetched by the entry of its prefix.

    Raise ConfigError, with the name of the plug-in, if the entry is of one that is not there.
    """
    if not is_run_address(address):
        return Path(address)
    entry = find_entry("run_address", address.partition(":")[0], f"{option}={address}")
    with entry.explain_failure():
        return Path(entry.load().fetch_run(address, option))


def is_run_address(text: str) -> bool:
    """Return whether a text begins as the addresses of an entry do, or of a plug-in that is not there."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and (prefix in find_entries("run_address") or explain_missing("run_address", prefix) is not None)


def read_record(folder: Path) -> RunRecord:
    """Read a run folder's run.json, of this or an earlier version.

    Raises CheckpointError if it is damaged, of version 0.1, or of a newer schema, or if the folder links elsewhere.
    """
    refuse_outward_links(folder)
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / RECORD} cannot be read: {error}.") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{folder / RECORD} is not the record of a run.")
    stated = {"schema": None} | {name: value for name, value in record.items() if value is not None}
    try:
        made = parse(RunRecord, stated)
    except ValueError as error:
        raise CheckpointError(f"{folder / RECORD}: {error}.", "The file is damaged: restore it.") from error
    if made.versions.get("avatar_bench", "").startswith("0.1."):
        raise CheckpointError(f"{folder} was made by avatar_bench 0.1, which this version does not read: train again.")
    if (made.schema or 0) > SCHEMA:
        raise CheckpointError(f"{folder} was made by a newer version of avatar_bench.", "Update avatar_bench.")
    return made


def read_ensemble(folder: Path) -> EnsembleRecord:
    """Read a folder's ensemble.json; raise CheckpointError if it is damaged, or if the folder links elsewhere."""
    refuse_outward_links(folder)
    try:
        return parse(EnsembleRecord, read_json(folder / ENSEMBLE))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / ENSEMBLE} cannot be read: {error}.", REBUILD_HINT) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run folder's config.yaml as plain values, of which nothing is built; return {} without a readable one."""
    from avatar_bench.runs.run_config import rename_options

    config = None
    with suppress(ConfigError):
        config = read_yaml(folder / "config.yaml")
    return rename_options(config) if isinstance(config, dict) else {}


def format_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Format rows of equal length, the first one the header, in columns two spaces apart."""
    rows = [tuple(map(escape_control_characters, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
