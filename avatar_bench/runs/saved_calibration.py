"""Calibration of a run on a user's images, as saved in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from avatar_bench.data.dataset import DATASET_COLUMNS, RUN_COLUMNS, Dataset
from avatar_bench.errors import CheckpointError
from avatar_bench.files.atomic_write import write_text
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.runs.record import read_json

CALIBRATION = "calibration.json"  # in a run folder
CALIBRATION_SCHEMA = 1  # raised when a key changes its meaning; unknown keys are ignored
_IMAGE_COLUMNS = ("path", "label", "source", "group", "sha256", "phash", "turned_phashes")
_HINT = "Calibrate the run again (avatar-bench calibrate), or delete the file."


@dataclass(frozen=True)
class ScoreThreshold:
    """Threshold of a detector's score, in the unit of the score, with its balanced accuracy on the images of the fit.

    `own` is the threshold that came with the detector, None if there is none.
    """

    value: float
    balanced_accuracy: float
    own: float | None = None
    own_balanced_accuracy: float | None = None


@dataclass(frozen=True)
class SavedCalibration:
    """Temperature and, of a score, threshold of a run, with the images that they were fitted on.

    `n` are the images by class of the view. `sha256` is that of the file.
    """

    checkpoint_sha256: str
    view: str
    temperature: float
    threshold: ScoreThreshold | None
    n: Mapping[str, int]
    images: Dataset
    fingerprint: str
    sha256: str = field(default="", compare=False)

    def write(self, folder: Path) -> None:
        """Write the calibration.json of a run folder atomically."""
        rows = self.images.frame.reindex(columns=list(_IMAGE_COLUMNS), fill_value="").to_dict("records")
        values = {
            "schema": CALIBRATION_SCHEMA,
            "checkpoint_sha256": self.checkpoint_sha256,
            "view": self.view,
            "temperature": self.temperature,
            "threshold": asdict(self.threshold) if self.threshold else None,
            "data": {
                "name": self.images.name,
                "root": str(self.images.root.absolute()),
                "fingerprint": self.fingerprint,
                "n": dict(self.n),
            },
            "images": rows,
        }
        write_text(folder / CALIBRATION, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_calibration(folder: Path) -> SavedCalibration | None:
    """Read the calibration.json of a run folder, None if there is none; raise CheckpointError if it is damaged."""
    file = folder / CALIBRATION
    if not file.is_file():
        return None
    try:
        saved = read_json(file)
        if saved["schema"] > CALIBRATION_SCHEMA:
            raise CheckpointError(f"{file} was made by a newer version of avatar_bench.", "Update avatar_bench.")
        stated, data = saved["threshold"], saved["data"]
        names = [each.name for each in fields(ScoreThreshold)]
        threshold = ScoreThreshold(**{name: stated[name] for name in names}) if stated else None
        columns = [*DATASET_COLUMNS, *RUN_COLUMNS]
        frame = pd.DataFrame(saved["images"]).astype(str).reindex(columns=columns, fill_value="")
        numbers = [saved["temperature"], *(asdict(threshold).values() if threshold else ())]
        is_valid = all(isinstance(one, int | float) and math.isfinite(one) for one in numbers if one is not None)
        if not is_valid or saved["temperature"] <= 0 or not len(frame):
            raise ValueError("a number is impossible")
        return SavedCalibration(
            checkpoint_sha256=str(saved["checkpoint_sha256"]),
            view=str(saved["view"]),
            temperature=float(saved["temperature"]),
            threshold=threshold,
            n={str(name): int(count) for name, count in data["n"].items()},
            images=Dataset(str(data["name"]), Path(str(data["root"])), frame),
            fingerprint=str(data["fingerprint"]),
            sha256=sha256_of_file(file),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read: {type(error).__name__}: {error}.", _HINT) from error
