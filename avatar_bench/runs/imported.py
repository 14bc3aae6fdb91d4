"""Runs of detectors made elsewhere, which `import` has put into a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.config.entries import find_entry
from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset, read_manifest, write_split
from avatar_bench.data.user_tables import read_user_table
from avatar_bench.errors import CheckpointError, DataError
from avatar_bench.files.hashes import sha256_of_file, sha256_of_text
from avatar_bench.inference.detectors import CONTENTS, open_detector
from avatar_bench.inference.foreign_tables import ScoreScale
from avatar_bench.inference.predictor import DatasetPredictor
from avatar_bench.models.card_schema import DetectorSettings, find_class_fault
from avatar_bench.models.model_card import Card
from avatar_bench.runs.record import RECORD, RunRecord, read_record
from avatar_bench.runs.run import Run


@dataclass
class ImportedRun(Run):
    """Detector made elsewhere, with the images that it was trained on, if they are known."""

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> ImportedRun:
        """Open the run folder of an imported detector; raise CheckpointError if its record is damaged."""
        folder = Path(path)
        record = read_record(folder)
        classes = record.classes or []
        try:
            native = DetectorSettings.read(record.detector).classes
            fault = find_class_fault(classes) or ("" if record.kind else "kind is missing")
            if fault or len(native) != len(classes):
                raise ValueError(fault or f"classes has {len(classes)} names, detector.classes {len(native)}")
        except ValueError as error:
            reason = f"{folder / RECORD} is damaged: {error}."
            raise CheckpointError(reason, "Restore it, or import the detector again.") from error
        class_map = {name: record.class_map.get(label, label) for label, name in zip(native, classes, strict=True)}
        return cls(folder, folder, record, class_map=class_map, **options)

    @cached_property
    def settings(self) -> DetectorSettings:
        """Return the recorded settings that any kind of detector may have."""
        return DetectorSettings.read(self.record.detector)

    @cached_property
    def card(self) -> Card:
        """Return a card with the classes, in the order of the outputs."""
        classes, settings = tuple(self.record.classes or ()), self.settings
        return Card(classes, str(self.record.kind), settings.preprocessing, temperature=settings.temperature)

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return the hash of everything imported; raise CheckpointError if the folder holds something else."""
        digest = hash_detector(self.checkpoint / CONTENTS, self.record)
        if digest != self.record.checkpoint_sha256:
            raise CheckpointError(
                f"{self.checkpoint} is damaged: its contents are not those recorded in {RECORD}.",
                "Import the detector again.",
            )
        return digest

    @property
    def score_scale(self) -> ScoreScale | None:
        """Return the scale of the detector's score, None if it returns probabilities of its classes.

        Raise CheckpointError if an earlier version imported it.
        """
        if not self.settings.score:
            return None
        if self.settings.scale is None:
            raise CheckpointError(f"{self.name}: the scale of its score is not recorded.", "Import the detector again.")
        return ScoreScale(**self.settings.scale)

    @property
    def provides(self) -> frozenset[str]:
        """Return the needs of blocks that the run meets: no decisions by a score without a threshold."""
        is_fitted = self.saved_calibration is not None and self.saved_calibration.threshold is not None
        lacks_threshold = bool(self.settings.score) and self.settings.threshold is None and not is_fitted
        return super().provides - ({"decisions"} if lacks_threshold else set())

    @property
    def bias(self) -> tuple[float, ...]:
        """Return what is added to the log-odds of the classes: the shift to a threshold that `calibrate` has fitted."""
        saved = self.saved_calibration
        if saved is None or saved.threshold is None or self.score_scale is None:
            return ()
        shift = saved.threshold.log_odds
        if shift is None:  # of an earlier version
            shift = float(self.score_scale.to_log_odds(saved.threshold.value, self.settings.threshold))
        return (-shift, 0.0)

    @cached_property
    def predictor(self) -> DatasetPredictor:
        """Return the detector's predictor."""
        self.checkpoint_sha256  # noqa: B018  # raises if the files have changed
        entry = find_entry("detector", str(self.record.kind), f"the detector of {self.name}, {self.record.kind}")
        common = self._predictor_fields
        try:
            return open_detector(entry, self.checkpoint, self.record.detector, self.accelerator, self.allow, **common)
        except (KeyError, TypeError, ValueError) as error:  # a setting is missing or of another type
            reason = f"{self.name} cannot be opened by its {RECORD}: {type(error).__name__}: {error}."
            raise CheckpointError(reason, "Import the detector again.") from error


def hash_detector(folder: Path, record: RunRecord) -> str:
    """Return a hash of the files of an imported detector, of its settings and of its classes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    contents = [(file.relative_to(folder).as_posix(), sha256_of_file(file)) for file in files]
    return sha256_of_text(repr((record.kind, record.classes, sorted(record.detector.items()), contents)))


def write_training_images(file: Path, target: Path) -> Dataset:
    """Write the images of a manifest, or of a list of SHA-256, as a run folder keeps them, and return them.

    Of a manifest that states splits, these are the images of train. Raise DataError if the file is neither.
    """
    if file.suffix.lower() == ".csv":
        frame = read_user_table(file, [], DATASET_COLUMNS)
    else:
        try:
            frame = pd.DataFrame({"sha256": file.read_text(encoding="utf-8").split()})
        except (OSError, ValueError) as error:
            raise DataError(f"trained_on={file} cannot be read: {error}.") from error
    if "sha256" in frame:
        frame = frame.reindex(columns=DATASET_COLUMNS, fill_value="")
        frame["sha256"] = frame["sha256"].str.lower()
        if frame.empty or not frame["sha256"].str.fullmatch("[0-9a-f]{64}").all():
            raise DataError(
                f"trained_on={file} is no list of SHA-256.",
                "Expected a manifest (.csv with a column path or sha256), or a text file with 64 hex digits per image.",
            )
        images = Dataset("trained_on", file.parent, frame)
    else:
        images = read_manifest(file, "trained_on", ["path"])
    kept = images.frame["split"].isin(["train", ""])
    images = Dataset("trained_on", images.root.absolute(), images.frame[kept].assign(split="train"))
    write_split(images, target)
    return images
