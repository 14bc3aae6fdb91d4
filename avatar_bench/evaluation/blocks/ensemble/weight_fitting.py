"""Ensemble strategies and weight soup, fitted on held-out images only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.selection import MIN_CALIBRATION_IMAGES, suggest_calibration_options
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import BlockError
from avatar_bench.metrics.averaging import STRATEGIES, AveragingWeights, average_probabilities, select_greedy_soup
from avatar_bench.metrics.calibration import TemperatureFit, fit_temperature_of_logits
from avatar_bench.runs.ensembles import CombinedRun, WeightSoup
from avatar_bench.runs.record import IMPORTED

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


@dataclass(frozen=True)
class HeldOutPredictions:
    """Images in the calibration half of every run, and each run's predictions on them.

    `logits` (M, N, C) are those of M runs, `targets` and `groups` (N,) those of the images.
    """

    dataset: Dataset
    predictions: list[Predictions]
    logits: NDArray[np.float64]
    targets: NDArray[np.int64]
    groups: NDArray[np.str_]


class FittedMix(NamedTuple):
    """Weights with which a strategy mixes the runs, and the fit of the mixture's temperature."""

    mix: AveragingWeights
    fit: TemperatureFit

    @property
    def temperature(self) -> float:
        """Return the temperature of the mixture."""
        return round_temperature(self.fit)


class FittedSoup(NamedTuple):
    """Weight soup: positions of candidate runs and of averaged runs, the Run they make, and its temperature's fit."""

    candidates: list[int]
    averaged: list[int]
    run: WeightSoup
    fit: TemperatureFit


def read_held_out(runs: Sequence[Run], datasets: Sequence[Dataset]) -> HeldOutPredictions:
    """Return the images that every run holds out for calibration and none was trained on.

    An imported detector has none of its own and predicts those of the others. Raise BlockError if a run does not know
    its own, or if they are fewer than 20 or lack a class; GuardError if an evaluated set shares images with them.
    """
    imported = [run.record.status == IMPORTED for run in runs]
    if all(imported):
        raise BlockError("Imported detectors alone have no calibration images to fit weights on.", "Add a trained run.")
    trained = [positions for positions, foreign in enumerate(imported) if not foreign]
    known = [runs[positions] for positions in trained if runs[positions].images is not None]
    images = [of_member for run in known if (of_member := run.images) is not None]
    calibration_images = [of_member.select_split("calibration") for of_member in images]
    if not all(map(len, calibration_images)):  # which `calibration` refuses without advice
        _require_enough(known, calibration_images, min(calibration_images, key=len))
    calibrations = [runs[positions].calibration(datasets[positions]) for positions in trained]
    parts = [runs[positions].dataset("calibration") for positions in trained]
    shared = set.intersection(*(set(part.frame["sha256"]) for part in parts))
    for of_member in images:
        shared -= set(of_member.frame.loc[of_member.frame["split"].isin(["train", "val"]), "sha256"])
    first = parts[0].frame
    wanted = first["sha256"].isin(shared) & (first["label"] != "") & ~first["sha256"].duplicated()
    dataset = parts[0].take(wanted)
    _require_enough([runs[positions] for positions in trained], parts, dataset)
    keys = dataset.frame["sha256"].tolist()
    imported_predictions = {
        positions: run.predictions(dataset) for positions, run in enumerate(runs) if imported[positions]
    }
    for run, predictions, part in zip(trained, calibrations, parts, strict=True):
        positions = pd.Series(np.arange(len(part)), part.frame["sha256"])
        rows = positions[~positions.index.duplicated()].loc[keys].to_numpy()
        imported_predictions[run] = predictions.take(rows)
    aligned = [imported_predictions[positions].reorder(runs[0].classes) for positions in range(len(runs))]
    logits = np.stack([of_member.uncalibrated.logits for of_member in aligned]).astype(np.float64)
    return HeldOutPredictions(dataset, aligned, logits, aligned[0].targets, aligned[0].groups)


def fit_strategies(held: HeldOutPredictions) -> dict[str, FittedMix]:
    """Fit every strategy's weights and temperature; the evaluated images are not used."""
    weights_by_strategy = {}
    for name, strategy in STRATEGIES.items():
        mix = strategy(held.logits, held.targets, held.groups)
        mixture = average_probabilities(held.logits, mix)
        weights_by_strategy[name] = FittedMix(mix, fit_temperature_of_logits(mixture, held.targets, held.groups))
    return weights_by_strategy


def average_weights(runs: Sequence[Run], held: HeldOutPredictions) -> FittedSoup | None:
    """Return the greedy soup of the largest group of compatible runs; None with fewer than two.

    Among groups of equal size, the one with the best run on the held-out images is taken. Its runs are tried in order
    of their accuracy there, and each is averaged in if the soup's accuracy does not fall.
    """
    accuracies = [float(predictions.correct.mean()) for predictions in held.predictions]
    groups = _group_compatible(runs)
    candidates = max(groups, key=lambda group: (len(group), max(accuracies[run] for run in group)), default=[])
    if len(candidates) < 2:
        return None
    scores = [accuracies[run] for run in candidates]

    def score(some: list[int]) -> float:
        soup = WeightSoup.of([runs[candidates[index]] for index in some])
        accuracy = float(soup.predictions(held.dataset).correct.mean())
        soup.predictor.unload()
        return accuracy

    averaged = [candidates[index] for index in select_greedy_soup(scores, score)]
    soup = WeightSoup.of([runs[position] for position in averaged])
    predictions = soup.predictions(held.dataset)
    fit = fit_temperature_of_logits(predictions.uncalibrated.logits, predictions.targets, predictions.groups)
    return FittedSoup(candidates, averaged, replace(soup, fitted=round_temperature(fit)), fit)


def round_temperature(fit: TemperatureFit) -> float:
    """Return a temperature to 6 decimals: more depend on the number of threads and would change the hash."""
    return round(fit.value, 6)


def _group_compatible(runs: Sequence[Run]) -> list[list[int]]:
    """Return the positions of runs whose weights may be averaged, in order of appearance; of copies only the first."""
    groups: dict[str, dict[str, int]] = {}
    for position, run in enumerate(runs):
        if isinstance(run, CombinedRun) or "module" not in run.provides:
            continue
        card = run.card
        # random weights of another seed are different initial weights
        origin = (card.weights, card.seed if card.weights == "none" else None)
        parts = [card.backbone, card.options, card.preprocessing, list(card.classes), origin]
        groups.setdefault(json.dumps(parts, sort_keys=True), {}).setdefault(run.checkpoint_sha256, position)
    return [list(members.values()) for members in groups.values()]


def _require_enough(runs: Sequence[Run], parts: Sequence[Dataset], dataset: Dataset) -> None:
    """Raise BlockError if the common images are too few or lack a class, with advice on how to get more."""
    missing = [name for name in runs[0].classes if name not in dataset.classes]
    if len(dataset) >= MIN_CALIBRATION_IMAGES and not missing:
        return
    lacking = f", none of {missing[0]!r}" if missing and len(dataset) else ""
    advice = "Compare runs with the same data.split.seed and images, or select runs: 'ckpt=[RUN,RUN]'."
    for run, part in zip(runs, parts, strict=True):
        scarce = len(part) < MIN_CALIBRATION_IMAGES or set(run.classes) - set(part.classes)
        if scarce and run.images is not None:
            more = suggest_calibration_options(run.images, _read_split_plan(run))
            advice = f"Each run has too few. For more, {more}, with the same split for all runs."
            break
    raise BlockError(
        f"The runs share too few calibration images to fit weights: {len(dataset)}{lacking}.",
        f"Expected {MIN_CALIBRATION_IMAGES} or more, of every class.",
        advice,
    )


def _read_split_plan(run: Run) -> SplitPlan:
    """Return the split in a run's configuration, as far as it determines what is held out."""
    data = run.config.get("data") or {}
    split = data.get("split") or {}
    names = ("seed", "folds", "by", "units", "val_by", "train_sources", "until")
    known = {name: split[name] for name in names if split.get(name) is not None}
    return SplitPlan(**known, held_out=tuple(split.get("held_out") or ()), limit=data.get("limit"))
