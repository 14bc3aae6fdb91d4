"""train: make one Run, stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avatar_bench.config.schema import TrainConfig, check_train
from avatar_bench.console.terminal import counted, tell
from avatar_bench.data.dataset import Dataset, files_of, read_split
from avatar_bench.data.decoding import formats_of
from avatar_bench.data.label_spelling import spelling_warnings
from avatar_bench.data.leakage import refuse_changed, refuse_formats, refuse_shortcut, split_apart
from avatar_bench.data.splits import SplitPlan, refuse_other_split
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.models.card_schema import fault_of_classes
from avatar_bench.runs.record import METRIC, RECORD, locate, read_record
from avatar_bench.sources.dataset_kinds import open_dataset
from avatar_bench.training.job import split_plan
from avatar_bench.training.recording import begin, recorded, reopened
from avatar_bench.training.run_folder import first_record, held, run_folder

AUDIT = "audit"  # the folder beside a manifest where prepare leaves what it found


def train(cfg: DictConfig) -> float:
    """Train the Run that the configuration describes; give its best val macro-F1.

    Raises AvatarBenchError of every kind; whatever was written stays, with the reason in run.json.
    """
    settings = _reopened(Path(cfg.resume)) if cfg.resume else _settings(cfg)
    folder = Path(settings.resume) if settings.resume else run_folder(settings)
    record = read_record(folder) if settings.resume else {}
    if record.get("status") != "finished":
        with held(folder):
            record = read_record(folder) if settings.resume else first_record(folder, cfg, settings)
            if record.get("status") != "finished":
                _complete(cfg, settings, folder, record)
                return float(record["metrics"][METRIC])
    tell(f"{folder}: finished before, left as it is.", file=sys.stderr)
    return float(record["metrics"][METRIC])


def _complete(cfg: DictConfig, settings: TrainConfig, folder: Path, record: dict[str, Any]) -> None:
    """Train, and leave in run.json how it ended."""
    with recorded(folder, cfg, record):
        whole, dataset = _images(settings)  # a mistake shows before torch has loaded, and leaves no run folder
        record.setdefault("split", asdict(_plan(settings)))
        record["allow"] = sorted(settings.allow)
        begin(folder, cfg, record)
        from avatar_bench.training.job import fit

        fit(settings, folder, record, whole, dataset)
    best = record["metrics"]
    tell(
        f"{folder}: val accuracy {best['val/accuracy']:.3f}, macro-F1 {best[METRIC]:.3f} "
        f"(n = {record['split']['counts']['val']}, the images that chose the checkpoint); "
        f"next: avatar-bench evaluate ckpt={folder}"
    )


def _settings(cfg: DictConfig) -> TrainConfig:
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, TrainConfig)
    return settings


def _images(settings: TrainConfig) -> tuple[Dataset, Dataset]:
    """Give all images that the options name, and those that are used, each with its split."""
    if settings.init_from:
        locate(Path(settings.init_from), "init_from")
    whole, plan = open_dataset(settings.data), _plan(settings)
    _check_labels(whole, settings.allow)
    manifests = {"manifest": Path(settings.data.manifest or ""), "demo": whole.root / "manifest.csv"}
    for warning in spelling_warnings(whole, manifests.get(settings.data.kind)):
        tell(f"warning: {warning}", file=sys.stderr)
    formats = formats_of(files_of(whole))
    refuse_changed(whole)
    if "shortcut" not in settings.allow:
        refuse_shortcut(whole.root / AUDIT, settings.data.equalise)
    if "shortcut" not in settings.allow and settings.data.equalise is None:
        refuse_formats(whole.frame["label"], formats)
    if settings.init_from:
        return whole, _same_split(whole, Path(settings.init_from), plan)
    notes: list[str] = []
    dataset = split_apart(whole, plan, settings.allow, notes)
    for note in notes:
        tell(f"warning: {note}", file=sys.stderr)
    return whole, dataset


def _plan(settings: TrainConfig) -> SplitPlan:
    mode = settings.mode
    return split_plan(settings.data, shots=mode.shots, val_shots=mode.val_shots, draw_seed=settings.seed)


def _check_labels(dataset: Dataset, allow: Sequence[str]) -> None:
    if (bare := dataset.frame.loc[dataset.frame["label"] == "", "path"]).size:
        raise GuardError(
            f"{bare.iat[0]} has no label ({counted(len(bare), 'such image')} of {len(dataset)}).",
            "Training needs one for every image: give a manifest of those that have one.",
        )
    if len(dataset.classes) < 2:
        raise GuardError(
            f"{dataset.name} has one class only, {dataset.classes[0]!r}.",
            "A classifier needs two classes or more: one folder each, or two labels in the manifest.",
        )
    if fault := fault_of_classes(dataset.classes):
        raise GuardError(f"{dataset.name}: {fault}.", "Give the folders, or the labels, other names.")
    written: dict[str, str] = {}
    for name in dataset.classes:
        if (other := written.setdefault(name.casefold(), name)) != name:
            raise GuardError(
                f"{dataset.name}: the classes {other!r} and {name!r} differ in upper and lower case alone.",
                "Write the label, or the folder's name, in one way.",
            )
    labels = dataset.frame.groupby("sha256")["label"].nunique()
    if (labels > 1).any() and "label_conflict" not in allow:
        rows = dataset.frame[dataset.frame["sha256"] == labels.index[labels > 1][0]].sort_values("label")
        raise GuardError(
            f"{rows['path'].iat[0]} is {rows['label'].iat[0]!r}, and the same image {rows['path'].iat[-1]} is "
            f"{rows['label'].iat[-1]!r} ({counted(int((labels > 1).sum()), 'such image')}).",
            "An image has one true class: take the wrong rows or files out, or say allow=[label_conflict].",
        )


def _same_split(whole: Dataset, path: Path, plan: SplitPlan) -> Dataset:
    """Give the images and the split of an earlier run; refuse other data."""
    _, folder = locate(path)
    if folder is None:
        raise GuardError(
            f"init_from={path} lies in no run folder, so its split is not known.",
            "Give the run folder, so that its test set stays unseen.",
        )
    record = read_record(folder)
    try:
        fingerprint, kept_plan = record["data"]["fingerprint"], dict(record["split"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"init_from={folder}: its {RECORD} does not say which images it used, and how."
        ) from error
    if fingerprint != whole.fingerprint:
        raise GuardError(
            f"init_from={folder} was trained on other images than {whole.name}.",
            "Give the same data= options as that run had (its config.yaml), so that its test set stays unseen.",
        )
    for name, value in asdict(plan).items():
        value = list(value) if isinstance(value, tuple) else value  # as JSON gives it back
        kept = kept_plan.get(name, value)
        if name != "draw_seed" and kept != value:
            raise ConfigError(
                f"init_from={folder} takes over that run's split, in which {name} is {kept}, not {value}.",
                "Give the same options for the split: data.fold, .split, .fraction, .limit, mode.shots and their like.",
            )
    kept_split = read_split(folder / "split.csv", whole.root)
    refuse_other_split(kept_split, kept_plan.get("fingerprint"), folder / "split.csv")
    return Dataset(whole.name, whole.root, kept_split.frame)


def _reopened(folder: Path) -> TrainConfig:
    """Give the own configuration of an interrupted run."""
    settings = _settings(reopened(folder, "train", TrainConfig, check_train))
    settings.resume = str(folder)
    return settings
