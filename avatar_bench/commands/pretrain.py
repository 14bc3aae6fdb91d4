"""pretrain: pretrain a backbone on images without labels."""

from __future__ import annotations

import datetime
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from avatar_bench.config.overrides import name_job
from avatar_bench.config.schema import PretrainConfig, check_pretrain
from avatar_bench.console.terminal import print_line
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import exclude_shared_images, refuse_changed_files, split_without_leakage
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.errors import GuardError
from avatar_bench.files.paths import find_unused_folder, make_folder_name
from avatar_bench.runs.record import read_record
from avatar_bench.sources.dataset_kinds import list_further_sets, open_further_set, open_images
from avatar_bench.training.job import build_split_plan
from avatar_bench.training.recording import record_outcome, reopen_config, start_record
from avatar_bench.training.run_folder import build_taken_error, is_free, lock_folder, read_git_commit

PRETRAINED_FOLDER = Path("pretrained")


def pretrain(cfg: DictConfig) -> float:
    """Pretrain the configured backbone; return its k-NN accuracy, NaN if it has none.

    Raises AvatarBenchError of every kind; files already written are kept, with the reason in run.json.
    """
    settings = _convert_config(
        reopen_config(Path(cfg.resume), "pretrain", PretrainConfig, check_pretrain) if cfg.resume else cfg
    )
    folder = Path(cfg.resume) if cfg.resume else _choose_folder(settings)
    settings.resume = cfg.resume
    record = read_record(folder) if cfg.resume else {}
    if record.get("status") != "finished":
        with lock_folder(folder):
            record = read_record(folder) if cfg.resume else _create_record(folder, settings)
            if record.get("status") != "finished":
                return _train_backbone(cfg, settings, folder, record)
    print_line(f"{folder}: already finished, left unchanged.", file=sys.stderr)
    return _read_accuracy(record)


def _train_backbone(cfg: DictConfig, settings: PretrainConfig, folder: Path, record: dict[str, Any]) -> float:
    with record_outcome(folder, cfg, record):
        whole, learning = _load_images(settings, record)  # fail before torch is loaded
        start_record(folder, cfg, record)
        from avatar_bench.training.ssl.pretraining_job import fit

        summary = fit(settings, folder, record, whole, learning)
    print_line(summary)
    return _read_accuracy(record)


def _convert_config(cfg: DictConfig) -> PretrainConfig:
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PretrainConfig)
    return settings


def _read_model_choice() -> str:
    return str(HydraConfig.get().runtime.choices.get("model") or "timm")


def _name_model(settings: PretrainConfig) -> str:
    return settings.model.backbone if _read_model_choice() == "timm" else _read_model_choice()


def _choose_folder(settings: PretrainConfig) -> Path:
    """Return the folder of the pretraining: `out`, or one named by the time; a sweep job has its own."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        shared = hydra.job.config.override_dirname.exclude_keys
        return Path(settings.out or PRETRAINED_FOLDER) / name_job(hydra.overrides.task, [*shared, "mode"])
    if settings.out:
        return Path(settings.out)
    name = make_folder_name(f"{_name_model(settings)}-{settings.method.name}")
    return find_unused_folder(PRETRAINED_FOLDER / name / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def _create_record(folder: Path, settings: PretrainConfig) -> dict[str, Any]:
    """Return the initial record of a pretraining; raise ConfigError if its folder contains another run."""
    if not is_free(folder):
        raise build_taken_error(folder, "pretrain")
    return {
        "status": "running",
        "command": "pretrain",
        "name": _name_model(settings),
        "model": _read_model_choice(),
        "method": settings.method.name,
        "seed": settings.seed,
        "git": read_git_commit(),
        "allow": sorted(settings.allow),
    }


def _load_images(settings: PretrainConfig, record: dict[str, Any]) -> tuple[Dataset, Dataset]:
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
        others = list_further_sets(data, found.root).items()
        learning, shared = exclude_shared_images(
            learning, {name: open_further_set(path, name) for name, path in others}
        )
        kept_out |= shared
    if len(learning) < 2:
        raise GuardError(
            f"Only {len(learning)} of {len(found)} images of {found.name} are left to train on.",
            "The others belong to its test, val, blind or ood sets, which are held out.",
        )
    record["split"] = asdict(plan) | {
        "fingerprint": fingerprint_split(sides),
        "counts": {str(side): int(n) for side, n in counts.items()},
    }
    record["images"] = {"learned_from": len(learning), "kept_out": kept_out}
    unlabelled = int((learning.frame["label"] == "").sum())
    if 0 < unlabelled < len(learning):
        record["images"]["unlabelled"] = unlabelled
    without = f", {unlabelled} of them without a label" * ("unlabelled" in record["images"])
    held_out = ", ".join(f"{n} of {name}" for name, n in kept_out.items() if n) or "none"
    print_line(
        f"training on {len(learning)} of {len(found)} images of {found.name}{without}; held out: {held_out}",
        file=sys.stderr,
    )
    if allowed:
        print_line(
            "warning: training includes images of the test, blind and ood sets (allow=[test_images])",
            file=sys.stderr,
        )
    return sides, learning


def _read_accuracy(record: dict[str, Any]) -> float:
    return float(record.get("metrics", {}).get("probe/knn_accuracy", np.nan))
