"""Calibration of a run for decisions whose promise is about new sources, on sources that its training lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count, format_names
from avatar_bench.data.corruptions import SLIGHT_CHANGES
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import encode_targets
from avatar_bench.errors import DataError, GuardError
from avatar_bench.runs.decisions import rank_embeddings
from avatar_bench.runs.run import Run
from avatar_bench.runs.run_images import list_origins
from avatar_bench.runs.saved_calibration import DecisionImages, SavedCalibration, SourceTerms


class _Part(NamedTuple):
    """Labelled images of sources that a network lacks, `source` naming their units, and what it says of them."""

    images: Dataset
    probabilities: NDArray[np.float64]
    percentiles: NDArray[np.float64] | None
    is_stable: NDArray[np.bool_] | None


def calibrate_by_source(run: Run, dataset: Dataset, terms: SourceTerms, stability: bool = False) -> SavedCalibration:
    """Return the calibration of a run by the sources of a data set in its view.

    Temperature and reference of unlike images are those that the run has: nothing is fitted here. With `stability`, it
    states whose answers stay under the SLIGHT_CHANGES. Raise DataError for images whose source is unknown, GuardError
    if training has used one of the sources.
    """
    labelled = dataset.take(np.flatnonzero(encode_targets(dataset, run.classes) >= 0))
    origins = list_origins(run, labelled)
    if not len(labelled) or (unknown := int((origins == "").sum())):
        reason = f"the source of {unknown} images is unknown" if len(labelled) else "no image has a class of the run"
        raise DataError(f"{dataset.name}: {reason}.", "State the column source in a manifest: data=manifest")
    if seen := sorted(set(origins) & run.seen_origins):
        raise GuardError(
            f"{run.name} was trained or calibrated on {format_count(len(seen), 'source')} of {dataset.name}: "
            f"{format_names(seen, 3)}.",
            "A promise about new sources needs sources that training lacks: leave these out, or use folds=SWEEP",
        )
    return _describe(run, dataset.name, [_predict(run, labelled, origins, stability)], terms)


def calibrate_by_folds(
    run: Run, networks: Sequence[Run], terms: SourceTerms, stability: bool = False
) -> SavedCalibration:
    """Return the calibration of a run by networks of the same recipe, each on the sources that it held out.

    Raise DataError if none of them held a source out, or if their images lie in several folders.
    """
    parts = list(_iterate_folds(run, networks, stability))
    if not parts or len({part.images.root for part in parts}) > 1:
        reason = "no network of it lacks a source of its test images" if not parts else "its images lie in two folders"
        raise DataError(
            f"folds={networks[0].folder and networks[0].folder.parent}: {reason}.",
            f"Expected the folder of a sweep=leave_one_source_out of model={run.card.backbone} on one data set.",
        )
    return _describe(run, "folds", parts, replace(terms, folds=len(parts)))


def _iterate_folds(run: Run, networks: Sequence[Run], stability: bool) -> Iterator[_Part]:
    """Yield the images of each source once, by the first network of the run's backbone that lacks it."""
    done: set[str] = set()
    for network in networks:
        if network.card.backbone != run.card.backbone or set(network.classes) != set(run.classes):
            continue
        network.view = run.view
        test = network.dataset("test")
        origins = list_origins(network, test)
        is_new = (origins != "") & ~origins.isin(network.seen_origins | done)
        rows = np.flatnonzero(is_new & (encode_targets(test, network.classes) >= 0))
        if len(rows):
            part = _predict(network, test.take(rows), origins.iloc[rows], stability)
            done |= set(part.images.frame["source"])
            order = [network.classes.index(name) for name in run.classes]
            yield part._replace(probabilities=part.probabilities[:, order])


def _predict(run: Run, images: Dataset, origins: pd.Series, stability: bool) -> _Part:
    predictions, saved = run.predictions(images), run.decision_calibration
    is_stable = predictions.find_stable(run.variations(images, SLIGHT_CHANGES)) if stability else None
    percentiles = rank_embeddings(saved.reference, predictions.embeddings) if saved and saved.reference else None
    named = replace(images, frame=images.frame.assign(source=origins.to_numpy()))
    return _Part(named, predictions.probabilities.astype(np.float64), percentiles, is_stable)


def _describe(run: Run, name: str, parts: Sequence[_Part], terms: SourceTerms) -> SavedCalibration:
    frame = pd.concat([part.images.frame for part in parts], ignore_index=True)
    images = Dataset(name, parts[0].images.root, frame)
    known = [part.percentiles for part in parts if part.percentiles is not None]
    stable = [part.is_stable for part in parts if part.is_stable is not None]
    has_all, saved = len(known) == len(parts), run.decision_calibration
    decisions = DecisionImages(
        run.classes,
        np.concatenate([part.probabilities for part in parts]),
        np.zeros(len(frame), dtype=bool),
        np.concatenate(known) if has_all else None,
        saved.reference if saved and has_all else None,
        np.concatenate(stable) if stable else None,
    )
    counts = frame["label"].value_counts()
    return SavedCalibration(
        checkpoint_sha256=run.checkpoint_sha256,
        view=run.view.name,
        temperature=run.temperature,
        threshold=None,
        n={label: int(counts.get(label, 0)) for label in run.classes},
        images=images,
        fingerprint=images.fingerprint,
        decisions=decisions,
        allow=tuple(sorted(run.allow)),
        terms=terms,
    )
