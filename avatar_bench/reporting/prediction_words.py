"""Words for classes, predictions, decisions and what they were worth, as pages of predictions show them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from avatar_bench.data.dataset import DATASET_SPLITS
from avatar_bench.data.splits import name_units
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.evaluation.intervals import IntervalOptions, compute_proportion
from avatar_bench.i18n import _
from avatar_bench.metrics.stats import wilson
from avatar_bench.metrics.units import NEW_SOURCES, Units, encode
from avatar_bench.reporting.saved_result import SavedResult, read_evaluation
from avatar_bench.results.declaration import find_word
from avatar_bench.results.result import METRICS_FILE, Metric
from avatar_bench.results.view import SEPARATOR
from avatar_bench.runs.decisions import CONFIDENT, COST, FALSE_ALARMS, UNLIKE, UNSTABLE, UNSURE, score_images
from avatar_bench.runs.run import Run

if TYPE_CHECKING:
    from avatar_bench.runs.saved_calibration import SavedCalibration

_OWN = ("test", "val", "calibration")  # sets of the training sources, the best first
CERTAIN, PROBABLE = 0.9, 0.6  # probabilities below which a prediction without a decision is worded as less certain
_MOST_NAMED = 4  # classes that a question, or what is printed, names
ENOUGH = 30  # images of a measurement that replaces an older one


def name_reasons() -> dict[str, str]:
    """Return the reasons of a decision in the current language, by their codes."""
    return {
        CONFIDENT: _("confident"),
        UNSURE: _("not sure enough"),
        UNLIKE: _("unlike the training images"),
        COST: _("least expected cost"),
        FALSE_ALARMS: _("by the threshold of false alarms"),
        UNSTABLE: _("another answer after slight changes"),
    }


def describe_stability(row: Mapping[Hashable, Any]) -> list[tuple[str, str]]:
    """Return what pages show of the slight changes of an image, as a term with a text; [] if there were none."""
    if row.get("stability") is None:
        return []
    names = {"jpeg": _("re-encoded"), "resize": _("reduced"), "mirror": _("mirrored")}
    flips = [names[name] for name in str(row.get("flips_on") or "").split("|") if name]
    text = _("another: {changes}", changes=", ".join(flips)) if flips else _("the same")
    return [(_("Answer after slight changes"), text)]


def describe_class(name: str) -> str:
    """Return a class in words; the classes of a user as they are."""
    return {"real": _("a real photo"), "drawing": _("a drawing"), "generated": _("AI-generated")}.get(name, name)


def translate_class(name: str) -> str:
    """Return the name of a class in the current language; the classes of a user as they are."""
    return {"real": _("real"), "drawing": _("drawing"), "generated": _("generated")}.get(name, name)


def translate_unreadable(reason: str) -> str:
    """Return why an image cannot be read, in the current language; a rare reason as `predict` writes it."""
    kind, cannot, why = reason.rstrip(".").partition(" cannot be decoded: ")
    return _("{kind} cannot be decoded: {why}.", kind=kind, why=find_word(why)) if cannot else find_word(reason)


def ask_question(classes: Sequence[str]) -> str:
    """Return what a page asks of an image."""
    if {*classes} == {"real", "drawing", "generated"}:
        return _("Is this avatar a real photo, a drawing, or AI-generated?")
    if len(classes) > _MOST_NAMED:
        return _("Which of {n} classes is this image of?", n=len(classes))
    *others, last = map(describe_class, classes)
    return _("Which class is this image of: {others} or {last}?", others=", ".join(others), last=last)


def list_phrases() -> list[tuple[float, str]]:
    """Return the least probability and the words of a prediction, the most certain first."""
    return [
        (CERTAIN, _("Prediction: {class_}")),
        (PROBABLE, _("Probably: {class_}")),
        (0.0, _("Not sure, perhaps: {class_}")),
    ]


def phrase_prediction(name: str, probability: float) -> str:
    """Return a prediction in words that say how certain it is."""
    return next(words for least, words in list_phrases() if probability >= least).format(class_=name)


def explain_phrases() -> str:
    """Return from which probability on a prediction is worded as it is."""
    return _(
        "A prediction below {certain} % is worded as probable, one below {probable} % as not sure.",
        certain=f"{100 * CERTAIN:.0f}",
        probable=f"{100 * PROBABLE:.0f}",
    )


@dataclass(frozen=True)
class MeasuredSet:
    """Metrics of blind_test by name on a set of images, measured at a `time` in seconds."""

    set: str
    metrics: Mapping[str, Metric]
    time: float

    @property
    def n(self) -> int:
        """Return the number of images."""
        return self.metrics["accuracy"].n


def find_measured_set(run: Run) -> MeasuredSet | None:
    """Return the newest measurement on ENOUGH images of other sources than those of training, calibration included.

    Without one, return the largest; None if there is none.
    """
    external = [measurement for measurement in _read_results(run) if measurement.set not in DATASET_SPLITS]
    external += _measure_calibration(run, run.saved_calibration and run.decision_calibration)
    with suppress(CheckpointError):  # made at another temperature: decisions by source say so
        external += _measure_calibration(run, run.source_calibration)
    enough = [measurement for measurement in external if measurement.n >= ENOUGH]
    if enough:
        return max(enough, key=lambda measurement: measurement.time)
    return max(external, key=lambda measurement: measurement.n, default=None)


def describe_accuracy(run: Run) -> str:
    """Return the accuracy on external images, else on those of the training sources, in the current language."""
    if external := find_measured_set(run):
        return _state(external.metrics["accuracy"], external.set)
    accuracies = {measurement.set: measurement.metrics["accuracy"] for measurement in _read_results(run)}
    in_domain = next((accuracies[name] for name in _OWN if name in accuracies), None) or _read_validation(run)
    return _state(in_domain) if in_domain else _("The accuracy of this model is not measured.")


def describe_worth(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Return by class what its prediction was worth on external images, as terms with texts in the current language.

    That is the precision and the recall of the class; {} without a measurement.
    """
    terms = {"precision": _("Such predictions that were right"), "recall": _("Images of this class that were found")}
    measured = find_measured_set(run)
    if measured is None:
        return {}
    return {
        name: [(term, _state_share(measured, f"{kind}/{name}")) for kind, term in terms.items()] for name in run.classes
    }


def list_worth(run: Run) -> list[str]:
    """Return the accuracy of a run and, of a few classes, what their predictions were worth, a line each."""
    worth = describe_worth(run) if len(run.classes) <= _MOST_NAMED else {}
    lines = [f"{name}: " + "; ".join(f"{term}: {text}" for term, text in facts) for name, facts in worth.items()]
    return [describe_accuracy(run), *lines]


def describe_model(run: Run, is_calibrated: bool) -> str:
    """Return the accuracy of a run, and whether its probabilities are calibrated, in the current language."""
    stated = _("Its probabilities are calibrated.") if is_calibrated else _("Its probabilities are not calibrated.")
    return f"{describe_accuracy(run)} {stated}"


def _read_results(run: Run) -> Iterator[MeasuredSet]:
    """Yield the results of blind_test by this checkpoint and its thresholds in this view."""
    for saved in read_evaluation(run.folder) if run.folder else ():
        if not isinstance(saved, SavedResult) or saved.result.block != "blind_test" or saved.view != run.view.name:
            continue
        stated = saved.result.provenance
        is_same = stated.get("checkpoint_sha256") == run.checkpoint_sha256
        is_same &= not run.bias or stated.get("calibration_sha256") == run.calibration_sha256
        metrics = saved.result.metrics
        if is_same and metrics.get("accuracy") is not None and metrics["accuracy"].value is not None:
            name = saved.result.set.partition(SEPARATOR)[0]
            yield MeasuredSet(name, metrics, (saved.folder / METRICS_FILE).stat().st_mtime)


def _measure_calibration(run: Run, saved: SavedCalibration | None) -> Iterator[MeasuredSet]:
    """Yield what a calibration on external images shows: of a score, on those that its threshold has not seen."""
    if not saved or saved.decisions is None or saved.images.name in DATASET_SPLITS:
        return
    if saved.terms and saved.terms.folds:  # predicted by other networks
        return
    try:
        scored = score_images(run, saved)
    except (ConfigError, GuardError):  # of another view
        return
    rows = ~scored.is_reference if saved.threshold else np.ones(len(scored.targets), dtype=bool)
    targets, predicted = scored.targets[rows], scored.probabilities[rows].argmax(axis=1)
    origins = name_units(pd.Series(scored.sources[rows]), run.units)
    is_new = origins[origins != ""]
    if not len(targets) or (len(is_new) and is_new.isin(run.seen_origins).mean() >= 0.5):
        return
    groups, is_sample = encode(scored.groups[rows]), bool(len(is_new))
    drawn = {"sources": encode(origins), "strata": targets} if is_sample else {}
    units = Units(groups, **drawn, is_known=is_sample)
    options, parts = IntervalOptions(), {"accuracy": np.ones(len(targets), dtype=bool)}
    for index, name in enumerate(scored.classes):
        parts |= {f"recall/{name}": targets == index, f"precision/{name}": predicted == index}
    metrics = {
        name: compute_proportion(options, predicted == targets, units, among=among)
        for name, among in parts.items()
        if among.any()
    }
    assert run.folder is not None
    yield MeasuredSet(saved.images.name, metrics, (run.folder / saved.file_name).stat().st_mtime)


def _read_validation(run: Run) -> Metric | None:
    """Return the accuracy that train has recorded; None for other classes or without it."""
    value, n = run.record.metrics.get("val/accuracy"), run.record.split.get("counts", {})
    if value is None or run.view.classes or not n.get("val"):
        return None
    return Metric(value, n["val"], *wilson(value * n["val"], n["val"]))


def _format_percent(metric: Metric, digits: int) -> str:
    assert metric.value is not None
    percent = f"{100 * metric.value:.{digits}f}\N{NO-BREAK SPACE}%"
    if metric.low is not None and metric.high is not None:
        percent += f" [{100 * metric.low:.{digits}f}, {100 * metric.high:.{digits}f}]"
    return percent


def _state_share(measured: MeasuredSet, name: str) -> str:
    metric = measured.metrics.get(name)
    if metric is None or metric.value is None:
        return _("not measured on {set}", set=measured.set)
    where = [measured.set, *([_(metric.population)] if metric.population else []), f"n = {metric.n}"]
    return f"{_format_percent(metric, 0)} ({', '.join(where)})"


def _state(metric: Metric, external: str = "") -> str:
    percent = _format_percent(metric, 1)
    if metric.population == NEW_SOURCES:
        text = _("Accuracy of this model on sources that training has not used ({set}, n = {n}): {percent}.")
    elif external:
        text = _("Accuracy of this model on {set} (n = {n}): {percent}.")
    else:
        text = _("Accuracy of this model on images set aside from its training sources (n = {n}): {percent}.")
    return text.format(set=external, n=metric.n, percent=percent)
