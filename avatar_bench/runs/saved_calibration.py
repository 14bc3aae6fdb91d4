"""Calibration of a run, at the end of training or on a user's images, as saved in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Interval, MinLen
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from avatar_bench.data.dataset import DATASET_COLUMNS, RUN_COLUMNS, Dataset
from avatar_bench.errors import CheckpointError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.document import OpenDocument, parse, read_json
from avatar_bench.files.hashes import sha256_of_bytes, sha256_of_file
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.metrics.selective import CONFIDENCE
from avatar_bench.metrics.units import SOURCE

CALIBRATION = "calibration.json"  # in a run folder
SOURCE_CALIBRATION = "source_calibration.json"  # beside it: what decisions by unit=source are made of
REFERENCE = "calibration.safetensors"  # beside it: embeddings of the reference images
_NEW_REFERENCE = f"{REFERENCE}.new"  # of a calibration.json that is about to be written, or was before a kill
BY_TRAIN, BY_CALIBRATE = "train", "calibrate"
CALIBRATION_SCHEMA = 1  # raised when a key changes its meaning; unknown keys are ignored
_IMAGE_COLUMNS = ("path", "label", "source", "group", "sha256", "phash", "turned_phashes", "stated_group")
_HINT = "Calibrate the run again (avatar-bench calibrate), or delete the file."


@dataclass(frozen=True)
class ScoreThreshold(OpenDocument):
    """Threshold of a detector's score, in the unit of the score, with its balanced accuracy on the images of the fit.

    At the threshold, the probability is 1/2. `own` is the one that came with the detector, None if there is none.
    `log_odds` are those of the threshold before the calibration, None in the calibration of an earlier version.
    """

    value: float
    balanced_accuracy: float
    own: float | None = None
    own_balanced_accuracy: float | None = None
    log_odds: float | None = None


@dataclass(frozen=True)
class OodReference:
    """Embeddings (M, D) of the reference images, and the distance (M,) of each to its neighbours among the others."""

    embeddings: NDArray[np.float32]
    distances: NDArray[np.float64]


@dataclass(frozen=True)
class DecisionImages:
    """What decisions are made of: the calibrated probabilities (N, C) of the calibration's images, in their order.

    `classes` are those of the view. Temperature and `reference` are fitted on the images that `is_reference` (N,)
    marks, thresholds on the others. Images have an `ood_percentile` (N,), 0 to 100, and the run a `reference`, only if
    it has embeddings. `is_stable` (N,) states which answers stay under the SLIGHT_CHANGES, None if that is unknown.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    is_reference: NDArray[np.bool_]
    ood_percentile: NDArray[np.float64] | None = None
    reference: OodReference | None = None
    is_stable: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class SourceTerms(OpenDocument):
    """Terms of a promise about new sources: at most a fraction `beta` of them exceeds the target error.

    `folds` is the number of networks that predicted the sources, each trained without its own; 0 if the run itself
    predicted them.
    """

    beta: Annotated[float, Interval(gt=0, lt=1)]
    folds: Annotated[int, Ge(0)] = 0


@dataclass(frozen=True)
class SavedCalibration:
    """Temperature and, of a score, threshold of a run, with the images that they were fitted on.

    `n` are the images by class of the view, `by` is the command that fitted them: train or calibrate. `fit` is that of
    the temperature, which is 1 where the fitted one is not applied; earlier versions recorded none. `decisions` is
    None if the images are too few to be divided, or if it was not asked for. `allow` are the guards that were switched
    off. With `terms`, sources are the units, temperature and reference are those that the run had, and `source` of the
    images names their units. `notes` say what a user must know of the fit, and are not saved. `sha256` is that of the
    file.
    """

    checkpoint_sha256: str
    view: str
    temperature: float
    threshold: ScoreThreshold | None
    n: Mapping[str, int]
    images: Dataset
    fingerprint: str
    by: str = BY_CALIBRATE
    fit: TemperatureFit | None = None
    decisions: DecisionImages | None = field(default=None, compare=False)
    allow: tuple[str, ...] = ()
    terms: SourceTerms | None = None
    sha256: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def file_name(self) -> str:
        """Return the name of its file in a run folder."""
        return CALIBRATION if self.terms is None else SOURCE_CALIBRATION

    @property
    def reference(self) -> OodReference | None:
        """Return what finds images unlike those of the calibration, None without embeddings."""
        return self.decisions.reference if self.decisions else None

    def write(self, folder: Path) -> None:
        """Write the file of a run folder, and the tensors that belong to it.

        At every moment the folder holds a whole calibration, the earlier one or this.
        """
        rows = self.images.frame.reindex(columns=list(_IMAGE_COLUMNS), fill_value="").to_dict("records")
        decisions, reference = self.decisions, self.reference
        stated: dict[str, Any] | None = None
        if decisions is not None:
            percentiles = decisions.ood_percentile
            for k, row in enumerate(rows):
                row["part"] = "reference" if decisions.is_reference[k] else "thresholds"
                row["probabilities"] = decisions.probabilities[k].tolist()
                row |= {"ood_percentile": float(percentiles[k])} if percentiles is not None else {}
                row |= {"is_stable": bool(decisions.is_stable[k])} if decisions.is_stable is not None else {}
            stated = {"classes": list(decisions.classes), "reference_sha256": None}
        if reference is not None and stated is not None:
            tensors = {"embeddings": reference.embeddings, "distances": reference.distances}
            content = save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
            stated["reference_sha256"] = sha256_of_bytes(content)
            with atomic_write(folder / _NEW_REFERENCE) as part:
                part.write_bytes(content)
        values = {
            "schema": CALIBRATION_SCHEMA,
            "by": self.by,
            "checkpoint_sha256": self.checkpoint_sha256,
            "view": self.view,
            "temperature": self.temperature,
            "temperature_fit": self.fit.plain if self.fit else None,
            "threshold": asdict(self.threshold) if self.threshold else None,
            "data": {
                "name": self.images.name,
                "root": str(self.images.root.absolute()),
                "fingerprint": self.fingerprint,
                "n": dict(self.n),
            },
            "allow": list(self.allow),
            "by_source": self._describe_terms(),
            "decisions": stated,
            "images": rows,
        }
        write_text(folder / self.file_name, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        if reference is not None:
            (folder / _NEW_REFERENCE).replace(folder / REFERENCE)
        elif self.terms is None:
            (folder / REFERENCE).unlink(missing_ok=True)

    def _describe_terms(self) -> dict[str, Any] | None:
        if self.terms is None:
            return None
        sources = sorted(set(self.images.frame["source"]))
        return {"unit": SOURCE, **asdict(self.terms), "confidence": CONFIDENCE, "sources": sources}


@dataclass(frozen=True)
class _Images(OpenDocument):
    name: str
    root: str
    fingerprint: str
    n: dict[str, int]


@dataclass(frozen=True)
class _Decisions(OpenDocument):
    classes: tuple[str, ...]
    reference_sha256: str | None


@dataclass(frozen=True)
class _Content(OpenDocument):
    """Content of the file, as `SavedCalibration.write` writes it, a row for each of its images."""

    schema: int
    checkpoint_sha256: str
    view: str
    temperature: Annotated[float, Gt(0)]
    threshold: ScoreThreshold | None
    data: _Images
    images: Annotated[list[dict[str, Any]], MinLen(1)]
    by: str = BY_CALIBRATE
    temperature_fit: Any = None
    allow: tuple[str, ...] = ()
    by_source: SourceTerms | None = None
    decisions: _Decisions | None = None


def read_calibration(folder: Path, with_decisions: bool = False, name: str = CALIBRATION) -> SavedCalibration | None:
    """Read the calibration of a run folder, None if there is none; raise CheckpointError if it is damaged.

    What decisions are made of, which has a file of its own too, is left out unless it is asked for.
    """
    file = folder / name
    if not file.is_file():
        return None
    try:
        saved = parse(_Content, read_json(file))
        if saved.schema > CALIBRATION_SCHEMA:
            raise CheckpointError(f"{file} was made by a newer version of avatar_bench.", "Update avatar_bench.")
        columns = [*DATASET_COLUMNS, *RUN_COLUMNS]
        frame = pd.DataFrame(saved.images).astype(str).reindex(columns=columns, fill_value="")
        return SavedCalibration(
            checkpoint_sha256=saved.checkpoint_sha256,
            view=saved.view,
            temperature=saved.temperature,
            threshold=saved.threshold,
            n=saved.data.n,
            images=Dataset(saved.data.name, Path(saved.data.root), frame),
            fingerprint=saved.data.fingerprint,
            by=saved.by,
            fit=TemperatureFit.parse(saved.temperature_fit),
            decisions=_read_decisions(saved, folder) if with_decisions else None,
            allow=saved.allow,
            terms=saved.by_source,
            sha256=sha256_of_file(file),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.", _HINT) from error


def _read_decisions(saved: _Content, folder: Path) -> DecisionImages | None:
    """Return what decisions are made of, None without it; raise ValueError or KeyError if it is damaged."""
    stated, rows = saved.decisions, saved.images
    if stated is None:
        return None
    classes = stated.classes
    probabilities = np.array([row["probabilities"] for row in rows], dtype=np.float64)
    if probabilities.shape != (len(rows), len(classes)) or not (np.abs(probabilities.sum(axis=1) - 1) < 1e-6).all():
        raise ValueError("its probabilities are none")
    if any(row["part"] not in ("reference", "thresholds") for row in rows):
        raise ValueError("a part is unknown")
    is_reference = np.array([row["part"] == "reference" for row in rows], dtype=bool)
    is_stable = np.array([row["is_stable"] is True for row in rows]) if "is_stable" in rows[0] else None
    if stated.reference_sha256 is None:
        return DecisionImages(classes, probabilities, is_reference, is_stable=is_stable)
    files = (file for file in (folder / REFERENCE, folder / _NEW_REFERENCE) if file.is_file())
    contents = (file.read_bytes() for file in files)
    content = next((candidate for candidate in contents if sha256_of_bytes(candidate) == stated.reference_sha256), None)
    if content is None:
        raise ValueError(f"{REFERENCE} is not the one that belongs to it")
    tensors = load_tensors(content)
    reference = OodReference(tensors["embeddings"], tensors["distances"])
    percentiles = np.array([row["ood_percentile"] for row in rows], dtype=np.float64)
    return DecisionImages(classes, probabilities, is_reference, percentiles, reference, is_stable)
