"""Probes: prediction of the class from a few properties of the images, cross-validated by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from avatar_bench.console.progress import track
from avatar_bench.metrics import classification, stats
from avatar_bench.metrics.units import GROUP, SOURCE
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Rows = NDArray[np.intp]
# (training features, training targets, test features, number of classes) -> class scores, (N, C)
Learner = Callable[[pd.DataFrame, Codes, pd.DataFrame, int], Floats]


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of probes: `folds` of the cross-validation, `resamples`, `level` and `unit` of the bootstrap, `seed`."""

    folds: int = 5
    seed: int = 0
    resamples: int = 1000
    level: float = 0.95
    unit: str = GROUP


class ProbeResult(NamedTuple):
    """Scores of a probe; `by_class` has the AUROC of every class.

    `auroc` is the highest one-vs-rest AUROC over the classes: one class revealed by the files is enough to invalidate
    an accuracy, and a mean would hide it. Chance is .5, or slightly more because the maximum is taken.
    """

    auroc: Metric
    balanced_accuracy: Metric
    by_class: dict[str, Metric]


def probe(frame: pd.DataFrame, columns: Sequence[str], settings: ProbeSettings) -> ProbeResult:
    """Predict `label` from numeric, boolean or categorical columns by gradient boosting, out of fold by `group`.

    Intervals come from a bootstrap of whole groups over the out-of-fold scores, with the learner fixed. All metrics are
    None with a reason where there are fewer than two classes or a class has fewer than two groups.
    """
    return _cross_validate(frame, _prepare_features(frame, columns), _fit_boosting, settings)


def probe_out_of_sources(frame: pd.DataFrame, columns: Sequence[str], settings: ProbeSettings) -> ProbeResult:
    """Predict `label` as `probe` does, out of fold by source: of images of sources that the learner has not seen.

    Intervals come from a bootstrap of whole sources. Images of no known source are divided by their group.
    """
    units = frame["source"].where(frame["source"] != "", "group " + frame["group"].astype(str))
    return probe(frame.assign(group=units), columns, replace(settings, unit=SOURCE))


def probe_source(frame: pd.DataFrame, settings: ProbeSettings) -> ProbeResult:
    """Predict `label` from the source, by its frequency in each class in the other folds; "" means not known."""
    known = frame[frame["source"] != ""]
    if known.empty:
        return _make_missing(Reason("no_source"))
    return _cross_validate(known, known[["source"]], _fit_frequencies, settings)


def probe_single_properties(frame: pd.DataFrame, columns: Sequence[str], settings: ProbeSettings) -> pd.DataFrame:
    """Probe each property alone by a decision tree; return a row per property, the highest AUROC first."""
    rows = []
    for column in track(columns, "probe single properties", unit="property"):
        result = _cross_validate(frame, _prepare_features(frame, [column]), _fit_tree, settings)
        auroc = result.auroc
        best = next((name for name, value in result.by_class.items() if value == auroc), "")
        rows.append((column, best, auroc.value, auroc.low, auroc.high, result.balanced_accuracy.value))
    numbers = ["auroc", "low", "high", "balanced_accuracy"]
    table = pd.DataFrame(rows, columns=["property", "class", *numbers]).astype(dict.fromkeys(numbers, float))
    return table.sort_values("auroc", ascending=False, kind="stable", ignore_index=True)


def score_majority_class(frame: pd.DataFrame) -> tuple[Metric, Metric]:
    """Return accuracy and balanced accuracy of always predicting the most frequent class."""
    counts, n = frame["label"].value_counts(), len(frame)
    accuracy = Metric(float(counts.iloc[0] / n), n, higher_is_better=None)
    return accuracy, Metric(1 / len(counts), n, higher_is_better=None)


def sample_rows(frame: pd.DataFrame, limit: int, seed: int = 0) -> Rows:
    """Return the positions, ascending, of about `limit` rows, of every class in proportion and at least one."""
    if len(frame) <= limit:
        return np.arange(len(frame))
    generator = np.random.default_rng(seed)
    proportion = limit / len(frame)
    members = frame.groupby("label", sort=True).indices.values()
    chosen = [generator.choice(rows, max(1, int(len(rows) * proportion)), replace=False) for rows in members]
    return np.sort(np.concatenate(chosen))


def _cross_validate(
    frame: pd.DataFrame, features: pd.DataFrame, learn: Learner, settings: ProbeSettings
) -> ProbeResult:
    labels = frame["label"].astype("category")
    names = list(labels.cat.categories)
    groups_a_class = frame.groupby("label")["group"].nunique()
    if len(names) < 2:
        return _make_missing(Reason("fewer_than_two_classes"))
    if groups_a_class.min() < 2:
        return _make_missing(Reason(f"one_{settings.unit}", name=str(groups_a_class.idxmin())))
    targets = np.asarray(labels.cat.codes, dtype=np.int64)
    groups = frame["group"].to_numpy(dtype=str)
    folds = min(settings.folds, int(groups_a_class.min()))
    scores = np.full((len(targets), len(names)), 1 / len(names))
    for train, test in _split_folds(tuple(targets.tolist()), tuple(groups.tolist()), folds, settings.seed):
        scores[test] = learn(features.iloc[train], targets[train], features.iloc[test], len(names))
    return _score_predictions(scores, targets, groups, names, settings)


@lru_cache(maxsize=2)  # takes a second for some thousand groups; two dozen probes of an audit share it
def _split_folds(targets: tuple[int, ...], groups: tuple[str, ...], folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    from sklearn.model_selection import StratifiedGroupKFold  # slow import (0.5 s), not needed by other commands

    split: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
    return [(train, test) for train, test in split.split(np.zeros(len(targets)), targets, groups) if len(test)]


def _fit_boosting(train: pd.DataFrame, targets: Codes, test: pd.DataFrame, classes: int) -> Floats:
    from sklearn.ensemble import HistGradientBoostingClassifier

    priors = np.bincount(targets, minlength=classes) / len(targets)
    present = np.flatnonzero(priors)
    scores = np.zeros((len(test), classes))
    if len(present) == 1 or not (train.nunique() > 1).any():  # nothing to learn from
        scores[:, present] = 1 / len(present)
        return scores
    model: Any = HistGradientBoostingClassifier(  # type: ignore[no-untyped-call]
        max_iter=60, max_leaf_nodes=15, min_samples_leaf=5, early_stopping=False, random_state=0
    )
    # two threads gain nothing on so few images, and take ten times as long where other jobs use the cores
    with threadpool_limits(1, "openmp"):  # type: ignore[no-untyped-call]
        scores[:, present] = model.fit(train, targets).predict_proba(test) / priors[present]
    # Reweight to equal class priors: a class that is rare in the training folds would otherwise score low in the fold
    # where it is frequent, and the pooled scores would fall below chance where the features are uninformative.
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def _fit_tree(train: pd.DataFrame, targets: Codes, test: pd.DataFrame, classes: int) -> Floats:
    """Fit a small decision tree to one property: sufficient for one feature, and 100 times as fast as boosting."""
    from sklearn.tree import DecisionTreeClassifier

    present = np.unique(targets)
    scores = np.zeros((len(test), classes))
    model: Any = DecisionTreeClassifier(  # type: ignore[no-untyped-call]
        max_leaf_nodes=16, min_samples_leaf=5, class_weight="balanced", random_state=0
    )
    # rounded, or the last digits of the balanced weights would differ between folds where nothing is learned
    scores[:, present] = model.fit(_encode_categories(train), targets).predict_proba(_encode_categories(test)).round(9)
    return scores


def _encode_categories(features: pd.DataFrame) -> pd.DataFrame:
    """Encode categories as integers, identically in all folds since they share their categories."""
    words = features.select_dtypes("category")
    return features.assign(**{str(name): words[name].cat.codes for name in words})


def _fit_frequencies(train: pd.DataFrame, targets: Codes, test: pd.DataFrame, classes: int) -> Floats:
    counts = pd.crosstab(train.iloc[:, 0], targets).reindex(columns=range(classes), fill_value=0)
    shares = counts / counts.sum().clip(lower=1)  # within each class, for the same reason as in _fit_boosting
    shares = shares.div(shares.sum(axis=1), axis=0)
    scores = shares.reindex(test.iloc[:, 0]).to_numpy(dtype=np.float64)
    return np.where(np.isnan(scores), 1 / classes, scores)


def _prepare_features(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    wanted = frame[list(columns)]
    words = [name for name in columns if not pd.api.types.is_numeric_dtype(wanted[name])]
    flags = [name for name in columns if pd.api.types.is_bool_dtype(wanted[name])]
    return wanted.astype(dict.fromkeys(words, "category") | dict.fromkeys(flags, "int8"))


def _score_predictions(
    scores: Floats, targets: Codes, groups: NDArray[np.str_], names: Sequence[str], settings: ProbeSettings
) -> ProbeResult:
    classes, predicted = scores.shape[1], scores.argmax(axis=1)
    balanced_accuracy = classification.build_confusion_statistic(
        [(targets, predicted)], classes, classification.balanced_accuracy
    )
    statistic = stats.JoinedStatistic([*classification.build_auroc_statistics(scores, targets), balanced_accuracy])
    values = statistic(np.ones((1, len(targets))))[0]
    about = groups, settings.resamples, settings.level, settings.seed
    lows, highs = stats.bootstrap_interval(statistic, *about, bounds=(0, 1))
    units = len(np.unique(groups))
    *aurocs, balanced = [
        Metric(float(value), units, float(low), float(high), f"bootstrap by {settings.unit}", higher_is_better=False)
        if low < high
        else Metric(float(value), units, higher_is_better=False, reason=Reason("no_spread"))
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
    return ProbeResult(aurocs[int(values[:-1].argmax())], balanced, dict(zip(names, aurocs, strict=True)))


def _make_missing(reason: Reason) -> ProbeResult:
    nothing = Metric(None, 0, higher_is_better=False, reason=reason)
    return ProbeResult(nothing, nothing, {})
