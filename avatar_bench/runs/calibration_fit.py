"""Fit of a run's temperature, of the threshold of its score and of what decisions are made of, on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count, format_name, print_note
from avatar_bench.data.corruptions import SLIGHT_CHANGES
from avatar_bench.data.dataset import OTHER_PREFIX, Dataset
from avatar_bench.data.leakage import group_copies, match_copies
from avatar_bench.data.loaders import encode_targets
from avatar_bench.data.selection import MIN_CALIBRATION_IMAGES, suggest_calibration_options
from avatar_bench.data.splits import SplitPlan, assign_folds
from avatar_bench.errors import DataError
from avatar_bench.metrics.calibration import (
    TEMPERATURE_RANGE,
    PlattScaling,
    TemperatureFit,
    compute_balanced_accuracy,
    fit_platt,
    fit_temperature_of_logits,
    fit_temperature_of_losses,
    image_losses,
)
from avatar_bench.metrics.neighbours import compute_distances
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.view import View
from avatar_bench.runs.decisions import NEIGHBOURS, rank_distances, rank_embeddings
from avatar_bench.runs.imported import ImportedRun
from avatar_bench.runs.run import Run
from avatar_bench.runs.saved_calibration import BY_TRAIN, DecisionImages, OodReference, SavedCalibration, ScoreThreshold

_NEAR_END = 1.001  # ratio of temperatures: the search does not reach the ends of its range
SAMPLED = f"{OTHER_PREFIX}sampled"  # column of the manifest of a review page: how an image was chosen


def fit_calibration(run: Run, dataset: Dataset, stability: bool = False) -> SavedCalibration:
    """Fit the calibration of a run, which has none, on a data set in its view.

    With `stability`, what decisions are made of states whose answers stay under the SLIGHT_CHANGES. Raise DataError if
    there are fewer than MIN_CALIBRATION_IMAGES labelled images or none of a class, GuardError if the run has been
    trained on some of them.
    """
    targets = encode_targets(dataset, run.classes)
    rows = np.flatnonzero(targets >= 0)
    counts = dict(zip(run.classes, np.bincount(targets[rows], minlength=len(run.classes)).tolist(), strict=True))
    if not len(rows) and dataset.classes:
        raise DataError(
            f"{dataset.name} has images of {', '.join(map(format_name, dataset.classes))}, but none of the classes of "
            f"{run.name}: {', '.join(run.classes)}.",
            "Rename its labels, or choose the run that has these classes: ckpt=RUN",
        )
    _refuse_few(dataset.name, counts)
    (of_run,) = run.own_predictions(dataset)
    of_run, targets = of_run.take(rows), targets[rows]
    if "embeddings" not in run.predictor.provides:  # an ensemble may have those of some members
        of_run = replace(of_run, embeddings=of_run.embeddings[:, :0])
    labelled = dataset.take(rows)
    used = group_copies(labelled, *match_copies(labelled))
    is_reference = mark_reference(used.frame)
    fitted = np.ones(len(used), dtype=bool) if is_reference is None else is_reference
    threshold = scaling = None
    if isinstance(run, ImportedRun) and run.score_scale is not None:
        threshold, scaling = _fit_score(run, of_run.take(fitted), targets[fitted])
        of_run = replace(of_run, logits=of_run.logits - np.array([threshold.log_odds, 0.0]))

    def merge(temperature: float, predictions: Predictions = of_run) -> Predictions:
        return replace(predictions, temperature=temperature).merge(run.merged_classes, targets)

    groups, fit = used.frame["group"].to_numpy(), None
    if scaling is not None:  # the slope of a score is arbitrary, so that no interval speaks for 1
        temperature, notes = 1 / scaling.slope, _note_end(1 / scaling.steepness)
    else:
        fit = fit_temperature_of_losses(
            lambda value: image_losses(merge(value).logits[fitted], targets[fitted], value), groups[fitted]
        )
        temperature, notes = fit.value, _note_end(fit.fitted)
    decisions = None
    if is_reference is not None:
        decisions = describe_images(merge(temperature), is_reference, groups)
        if stability:
            shift = np.array([threshold.log_odds, 0.0] if threshold else 0.0)
            varied = [part.take(rows) for part in run.own_predictions(dataset, SLIGHT_CHANGES)]
            versions = [merge(temperature, replace(part, logits=part.logits - shift)) for part in varied]
            decisions = replace(decisions, is_stable=merge(temperature).find_stable(versions))
    return SavedCalibration(
        checkpoint_sha256=run.checkpoint_sha256,
        view=run.view.name,
        temperature=temperature,
        threshold=threshold,
        n=counts,
        images=used,
        fingerprint=labelled.fingerprint,
        fit=fit,
        decisions=decisions,
        allow=tuple(sorted(run.allow)),
        notes=notes,
    )


def fit_temperature(
    dataset: Dataset, plan: SplitPlan, predict: Callable[[Dataset], Predictions]
) -> tuple[TemperatureFit | None, SavedCalibration | None]:
    """Fit the temperature of a new network on the calibration images of its data set, which was split by a plan.

    `predict` returns the Predictions of images at temperature 1. If the images are enough to be divided, return the
    calibration too, whose checkpoint is not known yet. Warn if they are too few, or if the temperature is not applied.
    """
    calibration = dataset.select_split("calibration")
    if len(calibration) >= MIN_CALIBRATION_IMAGES and len(calibration.classes) > 1:
        predictions = predict(calibration)
        is_reference = mark_reference(calibration.frame)
        fitted = predictions if is_reference is None else predictions.take(np.flatnonzero(is_reference))
        fit = fit_temperature_of_logits(fitted.logits, fitted.targets, fitted.groups)
        if not fit.is_applied:
            print_note(f"warning: temperature {fit}")
        if is_reference is None:
            return fit, None
        return fit, SavedCalibration(
            checkpoint_sha256="",
            view=View().name,
            temperature=fit.value,
            threshold=None,
            n={name: int((calibration.frame["label"] == name).sum()) for name in predictions.classes},
            images=calibration,
            fingerprint=calibration.fingerprint,
            by=BY_TRAIN,
            fit=fit,
            decisions=describe_images(replace(predictions, temperature=fit.value), is_reference, predictions.groups),
        )
    few = format_count(len(calibration), "calibration image")
    if not len(calibration):
        val = format_count(len(dataset.select_split("val")), "val image")
        few = f"half of {val} is fewer than {MIN_CALIBRATION_IMAGES}"
    more = suggest_calibration_options(dataset, plan)
    warning = f"too few images to fit a temperature ({few}); it stays 1. To fit one, {more}"
    print_note(f"warning: {warning}")
    return None, None


def select_random(dataset: Dataset, allow: Collection[str]) -> Dataset:
    """Return the images of a manifest of a review page that were drawn at random; those of any other data set.

    Images selected for doubt are no fair sample; "selected" in `allow` keeps them. Raise DataError if no image was
    drawn at random, or if the column says anything else.
    """
    sampled = dataset.frame.get(SAMPLED)
    if sampled is None or "selected" in allow:
        return dataset
    for row in np.flatnonzero(~sampled.isin(["random", "selected"])):
        raise DataError(
            f"{dataset.name}, {format_name(str(dataset.frame['path'].iat[int(row)]))}: sampled is "
            f"{format_name(str(sampled.iat[int(row)]))!r}.",
            "Expected random or selected, as in the manifest of a review page.",
        )
    if not (sampled == "random").any():
        raise DataError(
            f"{dataset.name}: none of its {len(dataset)} images was drawn at random, but all were selected for review.",
            "Label the random sample of the review page, or use them nevertheless: allow=[selected]",
        )
    return dataset.take(sampled == "random")


def mark_reference(frame: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Return which calibration images, (N,), temperature and out-of-domain reference are fitted on: half of the groups.

    Thresholds of decisions are fitted on the others. None if they are too few to be divided, or if a class would be
    missing: then everything is fitted on all, and there are no thresholds.
    """
    if len(frame) < 2 * MIN_CALIBRATION_IMAGES:
        return None
    is_reference = assign_folds(frame, 2, seed=0) == 0
    return is_reference if set(frame["label"][is_reference]) == set(frame["label"]) else None


def describe_images(
    predictions: Predictions, is_reference: NDArray[np.bool_], groups: NDArray[np.str_]
) -> DecisionImages:
    """Return what decisions are made of, from the calibrated Predictions of the calibration's images.

    An image of the reference is no neighbour of others of its group.
    """
    images = DecisionImages(predictions.classes, predictions.probabilities.astype(np.float64), is_reference)
    if not predictions.embeddings.shape[1]:
        return images
    known, reference_groups = predictions.embeddings[is_reference].astype(np.float32), groups[is_reference]
    distances = compute_distances(known, known, NEIGHBOURS, reference_groups[:, None] == reference_groups)
    reference = OodReference(known, distances)
    percentiles = np.empty(len(predictions))
    percentiles[is_reference] = rank_distances(reference, distances)
    percentiles[~is_reference] = rank_embeddings(reference, predictions.embeddings[~is_reference])
    return replace(images, ood_percentile=percentiles, reference=reference)


def _refuse_few(name: str, counts: dict[str, int]) -> None:
    n, absent = sum(counts.values()), [label for label, count in counts.items() if not count]
    lacking = [format_count(MIN_CALIBRATION_IMAGES - n, "image")] if n < MIN_CALIBRATION_IMAGES else []
    lacking += [f"images of {', '.join(absent)}"] if absent else []
    if lacking:
        raise DataError(
            f"{name} has {format_count(n, 'labelled image')}, too few: it lacks {' and '.join(lacking)}.",
            f"Expected {MIN_CALIBRATION_IMAGES} or more, some of every class.",
        )


def _fit_score(
    run: ImportedRun, predictions: Predictions, targets: NDArray[np.int64]
) -> tuple[ScoreThreshold, PlattScaling]:
    """Fit the probability of a score, whose threshold is where the first class of the detector has 1/2."""
    assert run.score_scale is not None
    log_odds = predictions.logits[:, 0].astype(np.float64) - predictions.logits[:, 1]  # 0 at its own threshold
    names = list(run.merged_classes.values())
    positive = targets == next(k for k, merged in enumerate(names) if predictions.classes[0] in merged)
    try:
        scaling = fit_platt(log_odds, positive)
    except ValueError as error:
        raise DataError(f"{run.name} gives all these images the same score: no threshold separates them.") from error
    middle = -scaling.intercept / scaling.slope
    fitted, known = compute_balanced_accuracy(log_odds, positive, [middle, 0.0]).tolist()
    own_threshold = run.settings.threshold
    value = run.score_scale.to_score(middle, own_threshold)
    return ScoreThreshold(value, fitted, own_threshold, None if own_threshold is None else known, middle), scaling


def _note_end(temperature: float) -> tuple[str, ...]:
    """Return what to say of a temperature at an end of its range, on the scale of the range."""
    least, most = TEMPERATURE_RANGE
    if temperature < least * _NEAR_END:
        return (
            "The temperature is at the least that is tried: these images hardly contain an error, so that they do not "
            "show how confident the run may be. Calibrate on more of them.",
        )
    if temperature > most / _NEAR_END:
        return (
            "The temperature is at the largest that is tried: on these images, confidence says nothing about being "
            "correct. Are their labels, and the meaning of a high score, right?",
        )
    return ()
