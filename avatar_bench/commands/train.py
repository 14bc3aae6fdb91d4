"""train: train one run, stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from avatar_bench.config.schema import TrainConfig, check_train
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data import leakage
from avatar_bench.data.dataset import Dataset, list_files, read_split
from avatar_bench.data.decoding import detect_formats
from avatar_bench.data.label_spelling import describe_misspelt_labels
from avatar_bench.data.splits import SplitPlan, refuse_changed_split
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.models.card_schema import find_class_fault
from avatar_bench.results.reasons import format_reason
from avatar_bench.runs.record import METRIC, RECORD, RunRecord, locate_checkpoint
from avatar_bench.sources.dataset_kinds import open_dataset
from avatar_bench.training.job import build_split_plan
from avatar_bench.training.recording import run_job, start_record
from avatar_bench.training.run_folder import choose_run_folder, create_record

AUDIT_FOLDER = "audit"  # the folder beside a manifest where prepare writes its audit


def train(cfg: DictConfig) -> float:
    """Train the configured Run; return its best val macro-F1.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    record = run_job(cfg, "train", check_train, _choose_folder, create_record, _train_run)
    return record.metrics[METRIC]


def _choose_folder(settings: TrainConfig) -> Path:
    return choose_run_folder(settings, Path("runs"), HydraConfig.get().sweep.dir, settings.mode.name)


def _train_run(cfg: DictConfig, settings: TrainConfig, folder: Path, record: RunRecord) -> str:
    """Train the run and complete its record; return a summary."""
    whole, dataset = _load_images(settings)  # fail before torch is loaded and a run folder is made
    record.split = record.split or asdict(_make_split_plan(settings))
    start_record(folder, cfg, record)
    from avatar_bench.training.job import fit

    fit(settings, folder, record, whole, dataset)
    best = record.metrics
    return (
        f"{folder}: val accuracy {best['val/accuracy']:.3f}, macro-F1 {best[METRIC]:.3f} "
        f"(n = {record.split['counts']['val']}, the images used to choose the checkpoint); "
        f"next: avatar-bench evaluate ckpt={folder}"
    )


def _load_images(settings: TrainConfig) -> tuple[Dataset, Dataset]:
    """Return all images of the data set, and those used for the run, each with its split."""
    if settings.init_from:
        locate_checkpoint(Path(settings.init_from), "init_from")
    whole, plan = open_dataset(settings.data), _make_split_plan(settings)
    _check_labels(whole, settings.allow)
    manifests = {"manifest": Path(settings.data.manifest or ""), "demo": whole.root / "manifest.csv"}
    for warning in describe_misspelt_labels(whole, manifests.get(settings.data.kind)):
        print_line(f"warning: {format_reason(warning)}", file=sys.stderr)
    formats = detect_formats(list_files(whole))
    leakage.refuse_changed_files(whole)
    if "shortcut" not in settings.allow:
        leakage.refuse_shortcut(whole.root / AUDIT_FOLDER, settings.data.equalise)
    if "shortcut" not in settings.allow and settings.data.equalise is None:
        leakage.refuse_format_shortcut(whole.frame["label"], formats)
    if settings.init_from:
        return whole, _load_earlier_split(whole, Path(settings.init_from), plan)
    notes: list[str] = []
    dataset = leakage.split_without_leakage(whole, plan, settings.allow, notes)
    for note in notes:
        print_line(f"warning: {note}", file=sys.stderr)
    return whole, dataset


def _make_split_plan(settings: TrainConfig) -> SplitPlan:
    mode = settings.mode
    return build_split_plan(settings.data, shots=mode.shots, val_shots=mode.val_shots, draw_seed=settings.seed)


def _check_labels(dataset: Dataset, allow: Sequence[str]) -> None:
    if (bare := dataset.frame.loc[dataset.frame["label"] == "", "path"]).size:
        raise GuardError(
            f"{bare.iat[0]} has no label ({format_count(len(bare), 'such image')} of {len(dataset)}).",
            "Training needs a label for every image: use a manifest of the labelled images.",
        )
    if len(dataset.classes) < 2:
        raise GuardError(
            f"{dataset.name} has only one class, {dataset.classes[0]!r}.",
            "A classifier needs two classes or more: one folder each, or two labels in the manifest.",
        )
    if fault := find_class_fault(dataset.classes):
        raise GuardError(f"{dataset.name}: {fault}.", "Rename the class folders or the labels.")
    written: dict[str, str] = {}
    for name in dataset.classes:
        if (other := written.setdefault(name.casefold(), name)) != name:
            raise GuardError(
                f"{dataset.name}: the classes {other!r} and {name!r} differ only in case.",
                "Use one spelling of the label or folder name.",
            )
    labels = dataset.frame.groupby("sha256")["label"].nunique()
    if (labels > 1).any() and "label_conflict" not in allow:
        rows = dataset.frame[dataset.frame["sha256"] == labels.index[labels > 1][0]].sort_values("label")
        raise GuardError(
            f"{rows['path'].iat[0]} is {rows['label'].iat[0]!r}, and the same image {rows['path'].iat[-1]} is "
            f"{rows['label'].iat[-1]!r} ({format_count(int((labels > 1).sum()), 'such image')}).",
            "An image has one true class: remove the wrong rows or files, or set allow=[label_conflict].",
        )


def _load_earlier_split(whole: Dataset, path: Path, plan: SplitPlan) -> Dataset:
    """Return the images with the split of an earlier run; raise GuardError for other data."""
    _, folder = locate_checkpoint(path)
    if folder is None:
        raise GuardError(
            f"init_from={path} is not in a run folder, so its split is unknown.",
            "Use the run folder, so that its test set stays held out.",
        )
    record = RunRecord.read(folder)
    if "fingerprint" not in record.data or not record.split:
        raise CheckpointError(f"init_from={folder}: its {RECORD} does not record its images and their split.")
    if record.data["fingerprint"] != whole.fingerprint:
        raise GuardError(
            f"init_from={folder} was trained on images other than those of {whole.name}.",
            "Use the data= options of that run (its config.yaml), so that its test set stays held out.",
        )
    for name, value in asdict(plan).items():
        value = list(value) if isinstance(value, tuple) else value  # JSON has no tuples
        kept = record.split.get(name, value)
        if name != "draw_seed" and kept != value:
            raise ConfigError(
                f"init_from={folder} reuses that run's split, where {name} is {kept}, not {value}.",
                "Use the same split options: data.fold, .split, .fraction, .limit, mode.shots and so on.",
            )
    kept_split = read_split(folder / "split.csv", whole.root)
    refuse_changed_split(kept_split, record.split.get("fingerprint"), folder / "split.csv")
    return Dataset(whole.name, whole.root, kept_split.frame)
