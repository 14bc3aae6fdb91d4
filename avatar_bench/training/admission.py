"""Images of a training: read, checked by the guards against leakage, and split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data import leakage
from avatar_bench.data.dataset import Dataset, list_files, read_split
from avatar_bench.data.decoding import detect_formats
from avatar_bench.data.label_spelling import describe_misspelt_labels, fold_spelling
from avatar_bench.data.splits import SplitPlan, refuse_changed_split
from avatar_bench.data.user_tables import locate_rows
from avatar_bench.errors import CheckpointError, ConfigError, GuardError, suggest_names
from avatar_bench.files.remote import is_remote as is_remote_address
from avatar_bench.models.card_schema import find_class_fault
from avatar_bench.results.reasons import format_reason
from avatar_bench.runs.record import RECORD, RunRecord, locate_checkpoint, read_record
from avatar_bench.sources.dataset_kinds import list_further_sets, open_dataset, open_further_set

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainConfig

AUDIT_FOLDER = "audit"  # the folder beside a manifest where prepare writes its audit


def admit_images(settings: TrainConfig, record: RunRecord) -> tuple[Dataset, Dataset]:
    """Return all images of the data set, and those used for the run, each with its split; raise GuardError."""
    if settings.init_from:
        locate_checkpoint(Path(settings.init_from), "init_from")
    mode = settings.mode
    val_shots = mode.shots if mode.val_shots is None else mode.val_shots  # a large val would not be few-shot
    plan = SplitPlan.from_options(settings.data, shots=mode.shots, val_shots=val_shots, draw_seed=settings.seed)
    record.split = record.split or asdict(plan)
    whole = open_dataset(settings.data)
    manifests = {"manifest": Path(settings.data.manifest or ""), "demo": whole.root / "manifest.csv"}
    manifest = manifests.get(settings.data.kind)
    _check_labels(whole, settings, manifest)
    for warning in describe_misspelt_labels(whole, manifest):
        print_note(f"warning: {format_reason(warning)}")
    _check_further_sets(whole, settings)
    is_remote = settings.data.kind == "shards" and is_remote_address(str(settings.data.shards))
    formats = list(whole.frame["format"]) if is_remote else detect_formats(list_files(whole))
    if not is_remote:  # a remote shard is checked as a whole once it is fetched
        leakage.refuse_changed_files(whole)
    if "shortcut" not in settings.allow:
        leakage.refuse_shortcut(whole.root / AUDIT_FOLDER, settings.data.equalise)
        if settings.data.equalise is None:
            leakage.refuse_format_shortcut(whole.frame["label"], formats)
    if settings.init_from:
        return whole, _load_earlier_split(whole, Path(settings.init_from), plan)
    notes: list[str] = []
    dataset = leakage.split_without_leakage(whole, plan, settings.allow, notes)
    for note in notes:
        print_note(f"warning: {note}")
    return whole, dataset.take((dataset.frame["label"] != "") | (dataset.frame["split"] == "train"), dataset.name)


def _check_labels(dataset: Dataset, settings: TrainConfig, manifest: Path | None) -> None:
    bare = dataset.frame.loc[dataset.frame["label"] == "", "path"]
    if bare.size and settings.teacher is None:
        where = f"{manifest}, {locate_rows(manifest, len(dataset))[bare.index[0]]}: " if manifest else ""
        raise GuardError(
            f"{where}{bare.iat[0]} has no label ({format_count(len(bare), 'such image')} of {len(dataset)}).",
            "Training needs a label for every image: use a manifest of the labelled images, or teacher=RUN.",
        )
    if len(dataset.classes) < 2:
        name, below = dataset.classes[0], dataset.root / dataset.classes[0]
        advice = ["A classifier needs two classes or more: one folder each, or two labels in the manifest."]
        if settings.data.kind == "folder" and sum(path.is_dir() for path in below.glob("*")) > 1:
            advice.append(f"If the folders in it are the classes: data.root={below}")
        raise GuardError(f"{dataset.name} has only one class, {name!r}.", *advice)
    if fault := find_class_fault(dataset.classes):
        raise GuardError(f"{dataset.name}: {fault}.", "Rename the class folders or the labels.")
    written: dict[str, str] = {}
    for name in dataset.classes:
        if (other := written.setdefault(fold_spelling(name), name)) != name:
            is_case = name.casefold() == other.casefold()
            show, what = (repr, "case") if is_case else (ascii, "invisible characters or the normal form of Unicode")
            reason = f"{dataset.name}: the classes {show(other)} and {show(name)} differ only in {what}."
            raise GuardError(reason, "Use one spelling of the label or folder name.")
    labels = dataset.frame.groupby("sha256")["label"].nunique()
    if (labels > 1).any() and "label_conflict" not in settings.allow:
        rows = dataset.frame[dataset.frame["sha256"] == labels.index[labels > 1][0]].sort_values("label")
        raise GuardError(
            f"{rows['path'].iat[0]} is {rows['label'].iat[0]!r}, and the same image {rows['path'].iat[-1]} is "
            f"{rows['label'].iat[-1]!r} ({format_count(int((labels > 1).sum()), 'such image')}).",
            "An image has one true class: remove the wrong rows or files, or set allow=[label_conflict].",
        )


def _check_further_sets(dataset: Dataset, settings: TrainConfig) -> None:
    """Raise DataError if a set for later evaluation cannot be read; warn if the external test set has other classes."""
    for name, path in list_further_sets(settings.data, dataset.root).items():
        further = open_further_set(path, name)
        if name == "blind" and (unknown := sorted(set(further.classes) - set(dataset.classes))):
            known = suggest_names(unknown[0], dataset.classes, f"; training has {', '.join(dataset.classes)}")
            print_note(f"warning: data.blind has class {unknown[0]!r}, which the network will not know{known}")


def _load_earlier_split(whole: Dataset, path: Path, plan: SplitPlan) -> Dataset:
    """Return the images with the split of an earlier run; raise GuardError for other data."""
    _, folder = locate_checkpoint(path)
    if folder is None:
        reason = f"init_from={path} is not in a run folder, so its split is unknown."
        raise GuardError(reason, "Use the run folder, so that its test set stays held out.")
    record = read_record(folder)
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
