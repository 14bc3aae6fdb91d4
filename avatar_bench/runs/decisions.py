"""Decisions on images: a class, or to abstain, by thresholds that bound the error or by costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count
from avatar_bench.data.selection import MIN_CALIBRATION_IMAGES
from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.files.document import read_yaml
from avatar_bench.inference.prediction_table import DECISION_COLUMNS
from avatar_bench.metrics.conformal import lac_scores, select_targets, threshold, threshold_of_units
from avatar_bench.metrics.neighbours import compute_distances
from avatar_bench.metrics.selective import (
    CONFIDENCE,
    MIN_ANSWERS,
    AnsweringThreshold,
    SourceThreshold,
    count_required,
    draw_of_groups,
    fit_answering_threshold,
    fit_source_threshold,
)
from avatar_bench.metrics.units import SOURCE
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.view import View
from avatar_bench.runs.saved_calibration import (
    CALIBRATION,
    SOURCE_CALIBRATION,
    OodReference,
    SavedCalibration,
)

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

ABSTAIN = "abstain"  # the decision for no class
CONFIDENT, UNSURE, UNLIKE, COST = "confident", "unsure", "unlike_training_data", "cost"  # reasons of decisions
FALSE_ALARMS = "false_alarms"  # reason of each decision by a rate of false alarms
UNSTABLE = "unstable"  # a further one, where answers to changed images are known
NEIGHBOURS = 5  # the distance to the fifth counts
MAX_OOD_PERCENTILE = 99.0  # beyond it, an image is unlike the reference images
_SMALL = 1e-9  # cost of confusing other classes, beside that of a false alarm


@dataclass(frozen=True)
class AlarmThreshold:
    """Probability of a class above which it is answered, with what it does on the images that it was fitted on.

    `rates` has n and alarms of the images of other classes, by source. `lacking` is how many sources more would let
    the rate hold for new ones, 0 if it does.
    """

    target: str
    value: float
    rates: pd.DataFrame
    n_target: int
    n_found: int
    lacking: int


@dataclass(frozen=True)
class DecisionRule:
    """Rule that decides on images by the probabilities of `classes`: by thresholds, or by costs.

    `thresholds` has the fit of each predicted class, or of all together under "", for a `target_error`; in their place,
    `by_source` is one whose promise is about new sources, fitted on as many of each class as `source_counts` states.
    `costs` are (C + 1, C), see `read_costs`, or stand for the threshold of an `alarm`. `set_score` is the largest score
    of a class in the prediction set, None without a calibration. Without a `reference`, no image is found unlike the
    training data. `guarantee` states what is promised and for which images, None for costs, and where it is not known
    which images of the calibration are stable.
    """

    classes: tuple[str, ...]
    set_score: float | None
    reference: OodReference | None
    target_error: float | None = None
    thresholds: Mapping[str, AnsweringThreshold] = field(default_factory=dict)
    by_source: SourceThreshold | None = None
    source_counts: Mapping[str, int] = field(default_factory=dict)
    costs: NDArray[np.float64] | None = None
    alarm: AlarmThreshold | None = None
    guarantee: Reason | None = None

    @property
    def notes(self) -> list[str]:
        """Return what a user must know: where nothing is answered and why, and whether no image is found unlike."""
        notes = self.list_unmet()
        if self.alarm and self.alarm.lacking:
            lacking = format_count(self.alarm.lacking, "source")
            notes.append(
                f"The rate of false alarms holds for new images of the same sources: for new ones, {lacking} lack."
            )
        if self.set_score is None:
            notes.append("There is no calibration for decisions: prediction_set and ood_percentile are empty.")
        elif self.reference is None:
            notes.append("There are no embeddings of calibration images: no image is found unlike the training data.")
        if self.target_error is not None and self.guarantee is None:
            unit = " unit=source" if self.by_source else ""
            notes.append(
                "Nothing is promised: the calibration of this view does not state which images are stable. To have a "
                f"promise: avatar-bench calibrate ckpt=RUN data=... stability=true{unit}"
            )
        return notes

    def explain_unmet(self) -> dict[str, Reason]:
        """Return why nothing is answered, by predicted class, "" for all, without those of which some are."""
        fits = {"": self.by_source} if self.by_source else self.thresholds
        target = self.target_error or 0.0
        return {
            name: explain_unmet(fit, target, self.source_counts) for name, fit in fits.items() if math.isinf(fit.value)
        }

    @property
    def answers_nothing(self) -> bool:
        """Return whether it abstains from every image."""
        return self.costs is None and all(map(math.isinf, self.values))

    def list_unmet(self) -> list[str]:
        """Return why nothing is answered, of one class or of all, in the current language."""
        unmet = {name: format_reason(reason) for name, reason in self.explain_unmet().items()}
        return [f"{name}: {why}" if name else why for name, why in unmet.items()]

    def describe_guarantee(self) -> str:
        """Return what is promised and for which images, in the current language; "" for nothing."""
        return format_reason(self.guarantee) if self.guarantee and not self.answers_nothing else ""

    @property
    def values(self) -> list[float]:
        """Return the confidence from which each class is answered, inf for none; [] for costs."""
        if self.by_source is not None:
            return [self.by_source.value] * len(self.classes)
        fits = [self.thresholds.get(name, self.thresholds.get("")) for name in self.classes]
        return [fit.value for fit in fits if fit is not None]

    def decide(
        self,
        probabilities: NDArray[np.floating],
        embeddings: NDArray[np.floating] | None,
        is_stable: NDArray[np.bool_] | None = None,
    ) -> pd.DataFrame:
        """Return the DECISION_COLUMNS of images with calibrated probabilities (N, C) and embeddings (N, D).

        With `is_stable` (N,), it abstains from the others, whatever else holds. By costs, an image is never unlike the
        training data: probabilities alone decide. Of equal costs, that of the first class counts, and to abstain comes
        last.
        """
        percentiles = np.full(len(probabilities), np.nan)
        if self.reference is not None and len(probabilities):
            assert embeddings is not None
            percentiles = rank_embeddings(self.reference, embeddings)
        predicted, names = probabilities.argmax(axis=1), np.array([*self.classes, ABSTAIN], dtype=object)
        if self.costs is not None:
            decision = names[(probabilities @ self.costs.T).argmin(axis=1)]
            reason = np.full(len(decision), FALSE_ALARMS if self.alarm else COST, dtype=object)
        else:
            is_sure = probabilities.max(axis=1) >= np.array(self.values)[predicted]
            is_like = ~(percentiles > MAX_OOD_PERCENTILE)
            decision = np.where(is_sure & is_like, names[predicted], ABSTAIN)
            reason = np.where(is_like, np.where(is_sure, CONFIDENT, UNSURE), UNLIKE)
        if is_stable is not None:
            decision, reason = np.where(is_stable, decision, ABSTAIN), np.where(is_stable, reason, UNSTABLE)
        columns = decision, reason, self._name_sets(probabilities), percentiles, self.describe_guarantee()
        return pd.DataFrame(dict(zip(DECISION_COLUMNS, columns, strict=True)))

    def extend(self, table: pd.DataFrame, embeddings: pd.Series[Any] | None) -> pd.DataFrame:
        """Return a table of predictions with the DECISION_COLUMNS, empty for files that could not be read.

        `embeddings` are those of its rows. With the column `stability`, it abstains from what is not stable.
        """
        good = (table["status"] == "ok").to_numpy()
        probabilities = table.loc[good, [f"prob_{name}" for name in self.classes]].to_numpy(dtype=np.float64)
        vectors = None
        if embeddings is not None and good.any():
            vectors = np.stack(list(embeddings[good]))
        is_stable = (table["stability"] == 1)[good].to_numpy() if "stability" in table else None
        return table.join(self.decide(probabilities, vectors, is_stable).set_index(table.index[good]))

    def _name_sets(self, probabilities: NDArray[np.floating]) -> list[str]:
        """Return the prediction set of each image, classes joined by |; the predicted class is always in it."""
        if self.set_score is None:
            return [""] * len(probabilities)
        is_in = lac_scores(probabilities, probabilities[:, 0]) <= self.set_score
        is_in[np.arange(len(is_in)), probabilities.argmax(axis=1)] = True
        names = np.array(self.classes, dtype=object)
        return ["|".join(names[row]) for row in is_in]


@dataclass(frozen=True)
class ScoredImages:
    """Scored images (N,) of a calibration in a view: true class, group, source and part.

    `probabilities` are (N, C). `is_like` states whether an image is like the reference, `is_stable` whether its answer
    stays under the SLIGHT_CHANGES, None where that is unknown in the view.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]
    is_reference: NDArray[np.bool_]
    is_like: NDArray[np.bool_]
    is_stable: NDArray[np.bool_] | None = None

    def mark_answerable(self, stability: bool) -> NDArray[np.bool_]:
        """Return which images, (N,), may be answered: those like the reference, with `stability` the stable ones."""
        return self.is_like & self.is_stable if stability and self.is_stable is not None else self.is_like

    @property
    def is_fit(self) -> NDArray[np.bool_]:
        """Return which images thresholds and prediction sets are fitted on: one of each group outside the reference."""
        return draw_of_groups(self.groups) & ~self.is_reference


class DecisionOptions(Protocol):
    """Options of commands that decide."""

    target_error: float | None
    per_class: bool
    false_alarms: float | None
    target: str | None
    unit: str
    costs: str | None
    alpha: float


def explain_unmet(
    fit: AnsweringThreshold | SourceThreshold, target: float, source_counts: Mapping[str, int] | None = None
) -> Reason:
    """Return why nothing is answered at a target error, and how many more images or sources are needed at least."""
    if isinstance(fit, SourceThreshold):
        values = {"target": target, "counted": fit.counted, "broken": fit.broken, "n": fit.n}
        if fit.counted < fit.required:
            missing, counts = fit.required - fit.counted, source_counts or {}
            by_class = ", ".join(f"{name} {n}" for name, n in counts.items())
            rarest = min(counts, key=counts.__getitem__, default="")
            return Reason("sources_missing", missing=missing, rarest=rarest, by_class=by_class, **values)
        return Reason("sources_break", **values)
    values = {"target": target, "errors": fit.n_errors, "n": fit.n}
    if fit.n_missing is None:
        return Reason("target_out_of_reach", **values)
    missing = round(fit.n_missing, 2 - len(str(fit.n_missing)))  # two digits: it is an estimate
    return Reason("target_unmet", **values, missing=missing)


def make_rule(run: Run, options: DecisionOptions, stability: bool = False) -> DecisionRule | None:
    """Return the rule that is asked for: by a target error, of least expected cost by a file, or None for none.

    With `stability`, thresholds are those of answers to stable images. Without a calibration for it, a rule by costs
    has no prediction sets and no out-of-domain percentiles. Raise GuardError if the run was calibrated in another view.
    """
    if options.target_error is not None and options.unit == SOURCE:
        return make_source_rule(run, options.target_error, options.alpha, stability)
    if options.target_error is not None:
        return make_decision_rule(run, options.target_error, options.alpha, options.per_class, stability)
    if options.false_alarms is not None:
        return make_alarm_rule(run, options)
    if options.costs is None:
        return None
    values, saved = read_costs(Path(options.costs), run.classes), run.decision_calibration
    if saved is None or saved.decisions is None:
        return DecisionRule(run.classes, None, None, costs=values)
    scored = score_images(run, saved)
    return DecisionRule(scored.classes, _fit_sets(scored, options.alpha), saved.reference, costs=values)


def make_decision_rule(
    run: Run, target_error: float, alpha: float = 0.1, per_class: bool = False, stability: bool = False
) -> DecisionRule:
    """Return the rule that answers as many images as possible with an error rate of at most `target_error`.

    That holds with probability CONFIDENCE for images like those of the calibration; of a group, one drawn image counts.
    With `per_class`, it holds for the answers of each class, one at a time. Prediction sets miss the true class of a
    fraction `alpha`. With `stability`, it holds for the answers to stable images, and has no guarantee if those of the
    calibration are not known. Where no threshold can be shown to meet the target, it answers nothing, and a note says
    so. Raise GuardError if the run has no calibration, too few images, or a calibration in another view.
    """
    saved = run.decision_calibration
    if saved is None:
        raise GuardError(
            f"{run.name} has no {CALIBRATION} with thresholds for decisions, which train fits from "
            f"{2 * MIN_CALIBRATION_IMAGES} calibration images on.",
            f"Calibrate it on {2 * count_required(target_error)} labelled images or more, half of them for "
            f"thresholds: avatar-bench calibrate ckpt={run.folder or 'RUN'} data=...",
        )
    scored = score_images(run, saved)
    fit, pilot = scored.is_fit, draw_of_groups(scored.groups) & scored.is_reference
    score, predicted = scored.probabilities.max(axis=1), scored.probabilities.argmax(axis=1)
    correct = predicted == scored.targets
    parts = {"": scored.mark_answerable(stability)}
    if per_class:
        parts = {name: parts[""] & (predicted == index) for index, name in enumerate(scored.classes)}
    _refuse_few(run, {name: int((part & fit).sum()) for name, part in parts.items()}, target_error)
    thresholds = {}
    for name, part in parts.items():
        known, new = part & pilot, part & fit
        thresholds[name] = fit_answering_threshold(score[known], correct[known], score[new], correct[new], target_error)
    percents = {"confidence": 100 * CONFIDENCE, "target": 100 * target_error}
    guarantee = Reason("guarantee_by_class" if per_class else "guarantee", **percents)
    stated = None if stability and scored.is_stable is None else guarantee
    return DecisionRule(
        scored.classes, _fit_sets(scored, alpha), saved.reference, target_error, thresholds, guarantee=stated
    )


def make_source_rule(run: Run, target_error: float, alpha: float = 0.1, stability: bool = False) -> DecisionRule:
    """Return the rule that answers as many images as possible while few sources have a larger error, as calibrated.

    `stability` is that of `make_decision_rule`. Prediction sets miss the true class of a fraction `alpha` of images
    that are drawn one from each new source. Where no threshold can be shown to keep the promise, it answers nothing,
    and a note says so. Raise GuardError if the run was not calibrated by source, or in another view.
    """
    saved = run.source_calibration
    if saved is None or saved.terms is None:
        raise GuardError(
            f"{run.name} has no {SOURCE_CALIBRATION}, which unit=source needs.",
            "Calibrate it on images of sources that training lacks: avatar-bench calibrate "
            f"ckpt={run.folder or 'RUN'} unit=source data=...",
        )
    scored, terms = score_images(run, saved), saved.terms
    scores = np.where(scored.mark_answerable(stability), scored.probabilities.max(axis=1), -np.inf)
    correct = scored.probabilities.argmax(axis=1) == scored.targets
    fit = fit_source_threshold(scores, correct, scored.sources, target_error, terms.beta)
    percents = {"confidence": 100 * CONFIDENCE, "target": 100 * target_error, "beta": 100 * terms.beta}
    guarantee = Reason("guarantee_of_sources", **percents, n=fit.n, least=MIN_ANSWERS)
    if terms.folds:
        guarantee = Reason("guarantee_of_folds", **percents, n=fit.n, least=MIN_ANSWERS, folds=terms.folds)
    set_score = _fit_sets(scored, alpha, draw_of_groups(scored.sources))
    counts = {
        name: len(np.unique(scored.sources[scored.targets == index])) for index, name in enumerate(scored.classes)
    }
    stated = None if stability and scored.is_stable is None else guarantee
    return DecisionRule(
        scored.classes, set_score, saved.reference, target_error, by_source=fit, source_counts=counts, guarantee=stated
    )


def make_alarm_rule(run: Run, options: DecisionOptions) -> DecisionRule:
    """Return the rule that calls few images of other classes `target`, a fraction `false_alarms` in expectation.

    With unit=source that holds for images of new sources, if the calibration has enough of them; otherwise for images
    of its own sources. Raise ConfigError for an unknown class, GuardError without a calibration that is large enough.
    """
    rate, target = options.false_alarms or 0.0, str(options.target)
    if target not in run.classes:
        raise ConfigError(f"target={target}: no class of {run.name}.", f"Expected one of {', '.join(run.classes)}.")
    by_source = options.unit == SOURCE
    unit = " unit=source" if by_source else ""
    advice = f"avatar-bench calibrate ckpt={run.folder or 'RUN'} false_alarms={rate:g} target={target}{unit} data=..."
    saved = run.source_calibration if by_source else run.decision_calibration
    if saved is None:
        raise GuardError(f"{run.name} has no calibration for false_alarms{unit}.", advice)
    scored = score_images(run, saved)
    index, required = scored.classes.index(target), math.ceil(1 / rate - 1 - 1e-9)
    score, is_target = scored.probabilities[:, index], scored.targets == index
    others, wanted = ~is_target & ~scored.is_reference, is_target & ~scored.is_reference
    lacking = max(0, required - len(np.unique(scored.sources[others]))) if by_source else required
    value = threshold_of_units(score[others], (scored.groups if lacking else scored.sources)[others], rate)
    if math.isinf(value):
        n = len(np.unique(scored.groups[others]))
        raise GuardError(
            f"{run.name}: false_alarms={rate:g} needs {required} groups of images of other classes than {target}; the "
            f"calibration has {n} for thresholds.",
            f"Calibrate it on more images: {advice}",
        )
    flags = pd.DataFrame({"source": scored.sources[others], "alarms": score[others] > value})
    rates = flags.groupby("source")["alarms"].agg(["size", "sum"]).set_axis(["n", "alarms"], axis=1)
    n_found = int((score[wanted] > value).sum())
    # to answer the target costs least where its probability exceeds the value; among others the likeliest is answered
    costs = np.full((len(run.classes) + 1, len(run.classes)), _SMALL)
    costs[:-1, index], costs[index], costs[-1] = 1 - value, value, 1
    np.fill_diagonal(costs, 0)
    kind = "alarms_of_images" if lacking else "alarms_of_sources"
    guarantee = Reason(kind, target=target, rate=100 * rate, value=value, n=len(rates))
    alarm = AlarmThreshold(target, value, rates, int(wanted.sum()), n_found, lacking if by_source else 0)
    sets = _fit_sets(scored, options.alpha, draw_of_groups(scored.sources) if by_source else None)
    return DecisionRule(scored.classes, sets, saved.reference, costs=costs, alarm=alarm, guarantee=guarantee)


def _fit_sets(scored: ScoredImages, alpha: float, drawn: NDArray[np.bool_] | None = None) -> float:
    scores = lac_scores(scored.probabilities, scored.probabilities.max(axis=1))
    return threshold(select_targets(scores, scored.targets)[scored.is_fit if drawn is None else drawn], alpha)


def _refuse_few(run: Run, counts: Mapping[str, int], target: float) -> None:
    required = count_required(target)
    lacking = {name: required - n for name, n in counts.items() if n < required}
    if lacking:
        where = ", ".join(f"{n}{f' predicted as {name}' if name else ''}" for name, n in lacking.items())
        raise GuardError(
            f"{run.name}: target_error={target:g} needs {required} calibration images for thresholds, one of a group; "
            f"missing are {where}.",
            f"Calibrate it on more images, of which half are for thresholds: avatar-bench calibrate ckpt={run.folder} "
            "data=...",
        )


def score_images(run: Run, saved: SavedCalibration) -> ScoredImages:
    """Return the images of a calibration as the run's view scores them, none if they were not divided.

    Raise GuardError if it was in another view.
    """
    if faults := [name for name in run.classes if name == ABSTAIN or "|" in name]:
        raise ConfigError(f"{run.name} has the class {faults[0]!r}, which decisions and prediction sets cannot name.")
    decisions, frame = saved.decisions, saved.images.frame
    if decisions is None:
        none, no_flags, no_names = np.zeros((0, len(run.classes))), np.zeros(0, dtype=bool), np.zeros(0, str)
        return ScoredImages(run.classes, none, np.zeros(0, int), no_names, no_names, no_flags, no_flags)
    probabilities, classes = decisions.probabilities, decisions.classes
    labels = frame["label"].to_numpy()
    if saved.view == View().name != run.view.name:
        merged = run.merged_classes
        parts = [
            probabilities[:, [classes.index(member) for member in merged_labels]].sum(axis=1)
            for merged_labels in merged.values()
        ]
        total = np.maximum(np.sum(parts, axis=0), np.finfo(np.float64).tiny)
        probabilities, classes = np.stack(parts, axis=1) / total[:, None], tuple(merged)
        labels = np.array([run.view.find_class(label) for label in labels], dtype=object)
    if classes != run.classes:
        raise GuardError(
            f"{run.name} was calibrated in view={saved.view}, whose thresholds do not hold in view={run.view.name}.",
            f"Use view={saved.view}, or calibrate it again with view={run.view.name} or view={View().name}.",
        )
    targets = np.array([classes.index(label) if label in classes else -1 for label in labels], dtype=np.int64)
    known = targets >= 0
    is_like = np.ones(len(known), dtype=bool)
    if decisions.ood_percentile is not None:
        is_like = ~(decisions.ood_percentile > MAX_OOD_PERCENTILE)
    groups, sources = (frame[name].to_numpy(dtype=np.str_)[known] for name in ("group", "source"))
    # in another view, answers that stay here may change, and others stay
    is_stable = decisions.is_stable if saved.view == run.view.name else None
    return ScoredImages(
        classes,
        probabilities[known],
        targets[known],
        groups,
        sources,
        decisions.is_reference[known],
        is_like[known],
        None if is_stable is None else is_stable[known],
    )


def rank_embeddings(reference: OodReference, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the percentile of each embedding's distance, (N,), see `rank_distances`."""
    return rank_distances(reference, compute_distances(reference.embeddings, embeddings, NEIGHBOURS))


def rank_distances(reference: OodReference, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute what percentage, (N,) from 0 to 100, of the reference images has no larger distance."""
    ranked = np.sort(reference.distances)
    return 100.0 * np.searchsorted(ranked, distances, side="right") / len(ranked)


def read_costs(file: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Read the costs (C + 1, C) of answering each class, and in the last row of abstaining, by true class.

    The file is a yaml: answered class -> true class -> cost, and `abstain` -> one cost; that of a correct answer is 0
    unless it is stated. Raise ConfigError if a cost is missing or no number of 0 or more, or a class is unknown.
    """

    def name_keys(values: Any) -> dict[str, Any]:
        return {str(name): value for name, value in values.items()} if isinstance(values, dict) else {}

    def refuse(fault: str) -> NoReturn:
        raise ConfigError(
            f"costs={file}: {fault}.",
            f"Expected for each of {', '.join(classes)} the costs, 0 or more, of answering it by true class, such as",
            f"{{{classes[0]}: {{{classes[1]}: 5, ...}}, ..., {ABSTAIN}: 1}}",
        )

    def read(cost: Any, where: str) -> float:
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
            refuse(f"{where} is {'missing' if cost is None else cost}")
        return float(cost)

    stated = name_keys(read_yaml(file))
    rows = {name: {name: 0, **name_keys(stated.get(name))} for name in classes}
    unknown = set(stated) - {*classes, ABSTAIN} | {true for row in rows.values() for true in row} - set(classes)
    if unknown:
        refuse(f"{min(unknown)} is no class of the run")
    costs = [[read(row.get(true), f"{name}: {{{true}: ...}}") for true in classes] for name, row in rows.items()]
    return np.array([*costs, [read(stated.get(ABSTAIN), ABSTAIN)] * len(classes)])
