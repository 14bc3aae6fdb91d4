"""out_of_domain: predictions for images outside all classes, and how well scores detect them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import option
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import check_class_order, make_columns, read_ood_sets
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics, compute_proportion
from avatar_bench.metrics import detection, plots, stats
from avatar_bench.metrics.ood_scores import DecisionOodScore, OodScore
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.decisions import MAX_OOD_PERCENTILE, NEIGHBOURS, rank_embeddings
from avatar_bench.runs.saved_calibration import OodReference

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

DETECTION_METRICS = {"auroc": detection.auroc, "aupr": detection.aupr, "fpr95": detection.fpr95}
SHIFTED_SET_LABELS = {"children_adults": "real", "simpsons": "drawing"}
NEAR_SETS = ("animal_faces", "icons")
IN_DOMAIN = "in_domain"  # kind of the evaluated set
_OUTSIDE = ("near", "far")  # kinds of sets without a class of the run
_ORDER = {"near": 0, "far": 0, "shifted": 1, IN_DOMAIN: 2}  # of kinds in the metrics
_CONFIDENCE_STATISTICS = ("mean_confidence", "std_confidence")
_FEW = 30  # images of a set below which its metrics are unreliable


class OutOfDomainSet(NamedTuple):
    """Set outside the domain, or the evaluated one: its kind (near, far, shifted), images and predictions."""

    name: str
    kind: str
    dataset: Dataset
    predictions: Predictions

    @property
    def should_reject(self) -> NDArray[np.bool_]:
        """Mark the images that deserve low confidence: those of no class, and misclassified ones."""
        return ~self.predictions.correct


@dataclass(kw_only=True)
class OutOfDomain(IntervalOptions):
    """Predictions and detection of the out-of-domain sets of a run, against the images of the evaluated set."""

    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    labels: dict[str, str] = option(
        SHIFTED_SET_LABELS,
        help="{set: true class} of unlabelled sets: they count as shifted in-domain data and get an accuracy",
    )
    near: list[str] = option([*NEAR_SETS], help="out-of-domain sets that look similar; the others are far")
    scores: list[str] = option(
        ["decision", "msp", "max_logit", "energy", "mahalanobis", "knn"],
        help="some of those that `avatar-bench list ood_scores` names; a higher score means more out of domain",
        choices=lambda: find_entries("ood_score"),
        check=bool,
        expected="one or more of those that `avatar-bench list ood_scores` names",
    )
    options: dict[str, Any] = option({}, help="of scores of your own: {NAME: {OPTION: VALUE}}")
    k: int = option(50, help="neighbour of the knn score", range=(1, None))
    gallery: int = option(12, help="most confident predictions shown; 0: none", range=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not set(self.options) <= set(self.scores):
            expected = f"options of {', '.join(self.scores)}"
            raise ConfigError(f"block.out_of_domain.options={self.options}: expected {expected}.")
        self._build_scores()

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute what decisions flag, class proportions, detection metrics and accuracy for each set."""
        sets = self._read_sets(run, dataset)
        inside = OutOfDomainSet(dataset.name, IN_DOMAIN, dataset, run.predictions(dataset))
        training: Predictions | None = None
        with suppress(BlockError):  # they are unknown
            training = run.training()
        everything = [inside, *sets]
        for ood_set in everything:
            check_class_order(ood_set.predictions, run.allow)
        reference = _read_reference(run, everything)
        scorers = self._build_scores()
        missing = _explain_missing(scorers, everything, training, reference)
        scorers = {name: scorer for name, scorer in scorers.items() if name not in missing}
        scores = _compute_scores(scorers, training, reference, everything)
        percentiles = [
            np.full(len(ood_set.predictions), np.nan)
            if reference is None
            else rank_embeddings(reference, ood_set.predictions.embeddings)
            for ood_set in everything
        ]
        result = Result("out_of_domain", dataset.name, len(inside.predictions), run.classes)
        measured, table = _measure_confidence(self, everything)
        flagged = self._measure_flagged(everything, percentiles)
        result.metrics = flagged | self._compute_metrics(everything, scores, missing) | measured
        rows = zip(everything, scores, percentiles, strict=True)
        result.tables = {
            "sets": pd.DataFrame([_build_set_row(ood_set) for ood_set in everything]),
            "confidence": table,
            "scores": pd.concat([_build_score_rows(*row) for row in rows], ignore_index=True),
        }
        if self.gallery and any(ood_set.should_reject.any() for ood_set in sets):
            result.arrays["gallery"] = self._select_images(sets, start=len(inside.predictions))
        for why in dict.fromkeys(missing.values()):
            names = [name for name, reason in missing.items() if reason == why]
            result.warnings.append(Reason("not_computed", scores=names, why=why))
        if (shrinkage := getattr(scorers.get("mahalanobis"), "shrinkage", 0.0)) > 0:
            result.warnings.append(Reason("shrunk", weight=shrinkage))
        result.warnings += [warning for ood_set in sets for warning in _warn_about_set(training, ood_set)]
        return result

    def _read_sets(self, run: Run, dataset: Dataset) -> list[OutOfDomainSet]:
        ood_sets = read_ood_sets(run)
        if not ood_sets:
            raise BlockError(
                "The run has no out-of-domain set.", "Add one with 'data.ood={name: FOLDER}' in evaluate or train."
            )
        if dataset.name in ood_sets:
            raise BlockError(
                f"{dataset.name} is an out-of-domain set itself.", "Evaluate an in-domain set, such as split=test."
            )
        self._check_names(run)
        return [self._label_set(run.classes, name, *both) for name, both in ood_sets.items()]

    def _check_names(self, run: Run) -> None:
        """Raise ConfigError for names in the options that the run lacks; the defaults may be missing."""
        labels = {name: label for name, label in self.labels.items() if SHIFTED_SET_LABELS.get(name) != label}
        for which, names in (("labels", labels), ("near", set(self.near) - set(NEAR_SETS))):
            for name in sorted(set(names) - set(run.ood)):
                raise ConfigError(
                    f"block.out_of_domain.{which}: the run has no out-of-domain set {name!r}.",
                    f"Available: {', '.join(run.ood)}.",
                )
        for name, label in labels.items():
            if label not in run.classes:
                raise ConfigError(
                    f"block.out_of_domain.labels.{name}={label}: expected one of {', '.join(run.classes)}."
                )

    def _label_set(self, classes: Sequence[str], name: str, other: Dataset, predictions: Predictions) -> OutOfDomainSet:
        label = self.labels.get(name)
        if label in classes:
            targets = np.where(predictions.targets < 0, classes.index(label), predictions.targets)
            predictions = replace(predictions, targets=targets)
        shifted = bool((predictions.targets >= 0).any())
        kind = "shifted" if shifted else "near" if name in self.near else "far"
        return OutOfDomainSet(name, kind, other, predictions)

    def _build_scores(self) -> dict[str, OodScore]:
        options = {"knn": {"k": self.k}} | self.options
        return {name: find_entry("ood_score", name).build(options.get(name)) for name in self.scores}

    def _measure_flagged(self, sets: Sequence[OutOfDomainSet], percentiles: Sequence[Floats]) -> dict[str, Metric]:
        """Return the fraction of each set that decisions flag as unlike the reference, the evaluated set last.

        The floor of a set outside the domain is the fraction of the evaluated one: what a rule flags that sees nothing.
        """
        metrics: dict[str, Metric] = {}
        floor = float((percentiles[0] > MAX_OOD_PERCENTILE).mean())
        for ood_set, percentile in sorted(zip(sets, percentiles, strict=True), key=lambda pair: _ORDER[pair[0].kind]):
            is_outside = ood_set.kind in _OUTSIDE
            if np.isnan(percentile).any():
                metric = Metric(None, 0, higher_is_better=is_outside, reason=Reason("needs_reference"))
            else:
                chance = floor if is_outside else None
                flags = percentile > MAX_OOD_PERCENTILE
                metric = compute_proportion(self, flags, ood_set.predictions.units, is_outside, chance)
            metrics[f"flagged/{ood_set.name}"] = metric
        return metrics

    def _compute_metrics(
        self, everything: Sequence[OutOfDomainSet], scores: Sequence[pd.DataFrame], missing: Mapping[str, Reason]
    ) -> dict[str, Metric]:
        inside, *sets = everything
        classes = inside.predictions.classes
        metrics: dict[str, Metric] = {}
        for ood_set, of_set in zip(sets, scores[1:], strict=True):
            if ood_set.kind in _OUTSIDE:
                metrics |= self._compute_detection(inside, ood_set, scores[0], of_set)
                for (score, why), name in product(missing.items(), DETECTION_METRICS):
                    metric = Metric(None, 0, higher_is_better=name != "fpr95", reason=why)
                    metrics[f"{name}/{ood_set.name}/{score}"] = metric
        for ood_set in sets:
            known = ood_set.predictions.take(ood_set.predictions.targets >= 0)
            if len(known):
                metric = compute_proportion(self, known.correct, known.units, floor=1 / len(classes))
                metrics[f"accuracy/{ood_set.name}"] = metric
        for ood_set, (index, name) in product(sets, enumerate(classes)):
            chosen = ood_set.predictions.predicted == index
            metrics[f"share/{ood_set.name}/{name}"] = compute_proportion(self, chosen, ood_set.predictions.units, None)
        return metrics

    def _compute_detection(
        self, inside: OutOfDomainSet, ood_set: OutOfDomainSet, domain: pd.DataFrame, outside_domain: pd.DataFrame
    ) -> dict[str, Metric]:
        both = pd.concat([domain, outside_domain], ignore_index=True)
        if both.empty:
            return {}
        outside = np.arange(len(both)) >= len(domain)
        floor = {"auroc": 0.5, "aupr": float(outside.mean()), "fpr95": detection.FPR_RECALL}
        parts = [
            detection.build_roc_statistic(both[score], outside, list(DETECTION_METRICS.values())) for score in both
        ]
        keys = {f"{name}/{ood_set.name}/{score}": name for score in both for name in DETECTION_METRICS}
        better = {key: name != "fpr95" for key, name in keys.items()}
        floors = {key: floor[name] for key, name in keys.items()}
        groups = np.concatenate([inside.predictions.groups, ood_set.predictions.groups])
        return bootstrap_metrics(self, list(keys), stats.JoinedStatistic(parts), groups, better, floors)

    def _select_images(self, sets: Sequence[OutOfDomainSet], start: int) -> dict[str, NDArray[Any]]:
        """Return the most confident predictions for images outside all classes, or errors if every set is labelled."""
        lengths = [len(group.predictions) for group in sets]
        starts = dict(zip((group.name for group in sets), np.cumsum([start, *lengths]), strict=False))
        chosen = [group for group in sets if group.kind in _OUTSIDE] or [
            group for group in sets if group.should_reject.any()
        ]
        images, places = [], []
        for index, group in enumerate(chosen):
            number = len(range(index, self.gallery, len(chosen)))  # equally many of each
            rows = np.flatnonzero(group.should_reject)
            for row in rows[np.argsort(-group.predictions.confidence[rows], kind="stable")][:number].tolist():
                images.append(group.dataset.image(row))
                places.append(starts[group.name] + row)
        return {"rows": np.array(places), **plots.make_thumbnails(images)}


def _measure_confidence(
    intervals: IntervalOptions, sets: Sequence[OutOfDomainSet]
) -> tuple[dict[str, Metric], pd.DataFrame]:
    """Return the metrics of confidence by set, and a table by set and predicted class, "" for all images."""
    metrics: dict[str, Metric] = {}
    rows = []
    for ood_set in sets:
        predictions, measured = ood_set.predictions, _measure_set(intervals, ood_set)
        metrics |= {f"{name}/{ood_set.name}": measured[f"{name}/"] for name in _CONFIDENCE_STATISTICS}
        counts = np.bincount(predictions.predicted, minlength=len(predictions.classes)).tolist()
        for label, n in [("", len(predictions)), *zip(predictions.classes, counts, strict=True)]:
            row = {"set": ood_set.name, "kind": ood_set.kind, "class": label, "n": n, "share": n / len(predictions)}
            for name in _CONFIDENCE_STATISTICS:
                row |= make_columns(name, measured[f"{name}/{label}"], f"{name}_")
            rows.append(row)
    numbers = [f"{name}{end}" for name in _CONFIDENCE_STATISTICS for end in ("", "_low", "_high")]
    return metrics, pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _measure_set(intervals: IntervalOptions, ood_set: OutOfDomainSet) -> dict[str, Metric]:
    """Return mean and standard deviation of the confidence by "/" and predicted class, nothing for all images."""
    predictions = ood_set.predictions
    confidence, classes = predictions.confidence, predictions.classes
    parts = np.column_stack([np.ones(len(predictions)), np.eye(len(classes))[predictions.predicted]])

    def statistic(weights: Floats) -> Floats:
        return np.hstack(stats.weighted_moments(weights, confidence, parts))

    names = [f"{name}/{label}" for name in _CONFIDENCE_STATISTICS for label in ("", *classes)]
    low_is_good = ood_set.kind in _OUTSIDE  # in the domain, confidence should match accuracy instead
    better = {name: False if low_is_good and name.startswith(_CONFIDENCE_STATISTICS[0]) else None for name in names}
    why = Reason("too_few_predicted")
    return bootstrap_metrics(intervals, names, statistic, predictions.units, better, reason=why)


def _explain_missing(
    scorers: Mapping[str, OodScore],
    sets: Sequence[OutOfDomainSet],
    training: Predictions | None,
    reference: OodReference | None,
) -> dict[str, Reason]:
    """Return why each score that cannot be computed is missing, by name."""
    has_logits, why = all(ood_set.predictions.has_logits for ood_set in sets), {}
    for name, scorer in scorers.items():
        if scorer.needs_training and training is None:
            why[name] = Reason("needs_training")
        elif isinstance(scorer, DecisionOodScore) and reference is None:
            why[name] = Reason("needs_reference")
        elif scorer.needs_logits and not has_logits:
            why[name] = Reason("needs_logits")
    return why


def _read_reference(run: Run, sets: Sequence[OutOfDomainSet]) -> OodReference | None:
    """Return the reference images of decisions, if any; raise GuardError if they are fitted on images of a set."""
    saved = run.decision_calibration
    if saved is None or saved.reference is None:
        return None
    for ood_set in sets:
        run.leakage.refuse_overlap_with_fit(ood_set.dataset, saved.images)
    return saved.reference


def _compute_scores(
    scorers: Mapping[str, OodScore],
    training: Predictions | None,
    reference: OodReference | None,
    sets: Sequence[OutOfDomainSet],
) -> list[pd.DataFrame]:
    """Compute the scores of each set, one column each; raise ConfigError if one of a user fails."""
    columns: list[dict[str, Floats]] = [{} for __ in sets]
    for score, scorer in scorers.items():
        with find_entry("ood_score", score).explain_failure():
            if training is not None and scorer.needs_training:
                scorer.fit(training.uncalibrated)
            if reference is not None and isinstance(scorer, DecisionOodScore):
                scorer.use(reference.embeddings, NEIGHBOURS)
            for ood_set, column in zip(sets, columns, strict=True):
                n = len(ood_set.predictions)
                values = column[score] = np.asarray(scorer.score(ood_set.predictions.uncalibrated), dtype=np.float64)
                if values.shape != (n,) or not np.isfinite(values).all():
                    raise ValueError(f"score must return a finite number for each of {n} images")
    return [pd.DataFrame(column) for column in columns]


def _build_set_row(ood_set: OutOfDomainSet) -> dict[str, object]:
    predictions = ood_set.predictions
    known = predictions.targets >= 0
    labels = sorted({predictions.classes[target] for target in predictions.targets[known]})
    shares = np.bincount(predictions.predicted, minlength=len(predictions.classes)) / len(predictions)
    return {
        "set": ood_set.name,
        "kind": ood_set.kind,
        "label": "|".join(labels),
        "n": len(predictions),
        "groups": len(np.unique(predictions.groups)),
        "accuracy": predictions.correct[known].mean() if known.any() else np.nan,
        "mean_confidence": predictions.confidence.mean(),
        **{f"share_{label}": share for label, share in zip(predictions.classes, shares, strict=True)},
    }


def _build_score_rows(ood_set: OutOfDomainSet, scores: pd.DataFrame, percentiles: Floats) -> pd.DataFrame:
    predictions = ood_set.predictions
    names = np.array([*predictions.classes, ""])  # the last one stands for unknown (-1)
    rows = {
        "set": ood_set.name,
        "kind": ood_set.kind,
        "path": predictions.paths,
        "group": predictions.groups,
        "target": names[predictions.targets],
        "prediction": names[predictions.predicted],
        "ood_percentile": percentiles,
        "confidence": predictions.confidence,
    }
    return pd.concat([pd.DataFrame(rows), scores], axis=1)


def _warn_about_set(training: Predictions | None, ood_set: OutOfDomainSet) -> Iterator[Reason]:
    """Warn about a set that is small, partly labelled, or shares sources with the training images."""
    n, known = len(ood_set.predictions), int((ood_set.predictions.targets >= 0).sum())
    if n < _FEW:
        yield Reason("few_images", name=ood_set.name, n=n)
    if 0 < known < n:
        yield Reason("partly_labelled", name=ood_set.name, n=n - known, all=n)
    seen = set(training.sources) & set(ood_set.predictions.sources) - {""} if training is not None else set()
    if seen:
        yield Reason("shared_sources", name=ood_set.name, sources=sorted(seen))
