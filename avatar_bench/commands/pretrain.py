"""pretrain: pretrain a backbone on images without labels."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from avatar_bench.config.schema import PretrainConfig, check_pretrain
from avatar_bench.console.terminal import print_line
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import exclude_shared_images, refuse_changed_files, split_without_leakage
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.errors import GuardError
from avatar_bench.runs.record import RunRecord
from avatar_bench.sources.dataset_kinds import list_further_sets, open_further_set, open_images
from avatar_bench.training.job import build_split_plan
from avatar_bench.training.recording import run_job, start_record
from avatar_bench.training.run_folder import choose_run_folder, describe_job, is_free, refuse_taken


def pretrain(cfg: DictConfig) -> float:
    """Pretrain the configured backbone; return its k-NN accuracy, NaN if it has none.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    record = run_job(cfg, "pretrain", check_pretrain, _choose_folder, _create_record, _train_backbone)
    return float(record.metrics.get("probe/knn_accuracy", np.nan))


def _choose_folder(settings: PretrainConfig) -> Path:
    return choose_run_folder(settings, Path("pretrained"), settings.out, settings.method.name)


def _create_record(folder: Path, cfg: DictConfig, settings: PretrainConfig) -> RunRecord:
    """Return the initial record of a pretraining; raise ConfigError if its folder contains another run."""
    if not is_free(folder):
        refuse_taken(folder, "pretrain")
    return replace(describe_job(settings), command="pretrain", method=settings.method.name)


def _train_backbone(cfg: DictConfig, settings: PretrainConfig, folder: Path, record: RunRecord) -> str:
    """Train the backbone and complete its record; return a summary."""
    whole, learning = _load_images(settings, record)  # fail before torch is loaded
    start_record(folder, cfg, record)
    from avatar_bench.training.ssl.pretraining_job import fit

    return fit(settings, folder, record, whole, learning)


def _load_images(settings: PretrainConfig, record: RunRecord) -> tuple[Dataset, Dataset]:
    """Return all images with their splits, and those to train on; print and record which are held out."""
    data = settings.data
    found = open_images(data)
    refuse_changed_files(found)
    plan = build_split_plan(data)
    notes: list[str] = []
    # labels are not used, so conflicting ones do not matter
    sides = split_without_leakage(found, plan, [*settings.allow, "label_conflict"], notes)
    for note in notes:
        print_line(f"warning: {note}", file=sys.stderr)
    allowed = "test_images" in settings.allow
    wanted = ["train"] + ["val", "calibration"] * settings.use_val + ["test"] * allowed
    learning = sides.take(sides.frame["split"].isin(wanted))
    counts = sides.frame["split"].value_counts()
    kept_out = {str(side): int(n) for side, n in counts.items() if side not in wanted}
    if not allowed:
        further = {name: open_further_set(path, name) for name, path in list_further_sets(data, found.root).items()}
        learning, shared = exclude_shared_images(learning, further)
        kept_out |= shared
    if len(learning) < 2:
        raise GuardError(
            f"Only {len(learning)} of {len(found)} images of {found.name} are left to train on.",
            "The others belong to its test, val, blind or ood sets, which are held out.",
        )
    record.split = asdict(plan) | {
        "fingerprint": fingerprint_split(sides),
        "counts": {str(side): int(n) for side, n in counts.items()},
    }
    record.images = {"learned_from": len(learning), "kept_out": kept_out}
    unlabelled, without = int((learning.frame["label"] == "").sum()), ""
    if 0 < unlabelled < len(learning):
        record.images["unlabelled"] = unlabelled
        without = f", {unlabelled} of them without a label"
    held_out = ", ".join(f"{n} of {name}" for name, n in kept_out.items() if n) or "none"
    chosen = f"training on {len(learning)} of {len(found)} images of {found.name}{without}"
    print_line(f"{chosen}; held out: {held_out}", file=sys.stderr)
    if allowed:
        warning = "warning: training includes images of the test, blind and ood sets (allow=[test_images])"
        print_line(warning, file=sys.stderr)
    return sides, learning
