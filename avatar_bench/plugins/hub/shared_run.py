"""A run as it is shared: what is needed to load it elsewhere, without paths, hosts or users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import pandas as pd

from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset, write_split
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_file
from avatar_bench.inference.export_formats import describe_network, safetensors
from avatar_bench.models.backbones import find_licence
from avatar_bench.models.classifier import Classifier
from avatar_bench.runs.record import SHARED_WEIGHTS, RunRecord
from avatar_bench.runs.run import Run
from avatar_bench.runs.run_images import TRAINED_ON

# of the record, what holds no path, host or user
_PASSED_ON = (
    *("status", "finished", "name", "model", "mode", "augmentation", "seed", "allow", "versions", "device", "classes"),
    *("balance", "batch_size", "passes_per_step", "resembles", "stages", "probe", "temperature", "best_epoch"),
    *("chosen_by", "metrics", "licence", "temperature_fit"),
)
_PASSED_ON_OF = {
    "init": ("licence", "sha256", "ancestors", "method", "epochs"),
    "data": ("kind", "fingerprint"),
    "split": ("fingerprint", "counts", "train_counts"),
}


def write_shared_run(run: Run, folder: Path, licence: str | None = None) -> RunRecord:
    """Write weights with their card, record, calibration and the hashes of the training images; return the record.

    The folder is a run folder that every command reads. `licence` is that of the run, if it is not only those of its
    initial weights and of its teacher.
    """
    card = replace(run.card, weights=Path(run.card.weights).name)
    known = {"checkpoint_sha256": run.checkpoint_sha256, "ancestors": run.ancestors, "allow": run.record.allow}
    provenance = {name: value for name, value in known.items() if value}
    classifier = Classifier(card, run.predictor.module.net)
    (weights,) = safetensors.encode(classifier, describe_network(classifier, provenance)).values()
    (folder / SHARED_WEIGHTS).write_bytes(weights)
    record = _select_values(run)
    record.licence = licence or record.licence
    record.checkpoint_sha256 = sha256_of_bytes(weights)
    record.trained_on = _write_training_images(run, folder / TRAINED_ON)
    record.write(folder)
    _write_calibrations(run, record.checkpoint_sha256, folder)
    return record


def _select_values(run: Run) -> RunRecord:
    """Return the values of a run's record that may be shared."""
    stated = run.record
    kept: dict[str, Any] = {name: getattr(stated, name) for name in _PASSED_ON}
    for group, names in _PASSED_ON_OF.items():
        values: Mapping[str, Any] = getattr(stated, group)
        kept[group] = {name: values[name] for name in names if name in values}
    weights = Path(str(stated.init.get("weights") or run.card.weights)).name
    licence = kept["init"].get("licence") or find_licence(run.card.backbone, weights)
    kept["init"] |= {"weights": weights} | ({"licence": licence} if licence else {})
    if teacher := stated.init.get("teacher"):
        kept["init"]["teacher"] = {name: teacher[name] for name in ("sha256", "licence") if name in teacher}
    return RunRecord(**kept)


def _write_training_images(run: Run, file: Path) -> dict[str, Any] | None:
    """Write the SHA-256 of the images that a run and its initial weights were trained on; None if they are unknown."""
    train = run.images.select_split("train") if run.images is not None else run.trained_on
    if train is None:
        return None
    used = [train, *([run.pretraining] if run.pretraining is not None else [])]
    digests = sorted({digest for images in used for digest in images.frame["sha256"]} - {""})
    frame = pd.DataFrame({"sha256": digests, "split": "train"}).reindex(columns=DATASET_COLUMNS, fill_value="")
    write_split(Dataset("trained_on", file.parent, frame), file)
    return {"n": len(digests), "root": "", "images_sha256": sha256_of_file(file)}


def _write_calibrations(run: Run, checkpoint_sha256: str, folder: Path) -> None:
    """Write the calibrations of a run, by image and by source, without the names of images and groups.

    Groups have numbers that differ from push to push, because hashes of names can be guessed. Hashes of images are
    sorted, so that none stands beside the label and the probabilities of its image; guards need only the set of them.
    """
    push = token_hex(8)
    for calibration in (run.decision_calibration, run.source_calibration):
        if calibration is None:
            continue
        frame = calibration.images.frame
        digests = sorted(frame["sha256"])
        hidden = frame[["label", "source"]].assign(
            path=digests, sha256=digests, group=[f"{push}-{number}" for number in pd.factorize(frame["group"])[0]]
        )
        images = Dataset(calibration.images.name, Path("/"), hidden)
        replace(calibration, checkpoint_sha256=checkpoint_sha256, images=images).write(folder)
