"""Tables of decision: operating points of each class against the others, and answers at target errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation import intervals
from avatar_bench.evaluation.block import make_columns
from avatar_bench.metrics import detection, operating_curve, selective, stats
from avatar_bench.metrics.stats import Floats
from avatar_bench.metrics.units import SOURCE, Units, encode
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric
from avatar_bench.runs.decisions import ABSTAIN, UNLIKE, DecisionRule, explain_unmet

if TYPE_CHECKING:
    from avatar_bench.evaluation.blocks.decision import Decision
    from avatar_bench.results.predictions import Predictions

Reals = NDArray[np.floating]
_ALARM_RATES = np.linspace(0, 1, 41) ** 2  # of the ROC curve: dense where it matters
_RECALLS = np.arange(1, 41) / 40  # of the precision-recall curve
_ROUNDING = 1e-12
_POINT_COLUMNS = [
    *("class", "false_alarms", "recall", "low", "high", "threshold", "n", "others", "other_units"),
    *("seen", "seen_high", "n_required", "unit", "population"),
]
_PROPORTIONS = {"coverage": "answered", "error": "errors"}  # of the images of a part, and what each counts


class Part(NamedTuple):
    """Images (N,) of a slice of a set: the column by which it is sliced, and its value there; "" for all images."""

    by: str
    name: str
    images: NDArray[np.bool_]


def compute_operating_points(
    block: intervals.IntervalOptions, predictions: Predictions, rates: Sequence[float]
) -> tuple[dict[str, Metric], dict[str, pd.DataFrame]]:
    """Compute the recall of each class at each rate of false alarms, and the tables of points and of both curves.

    The score of a class is its probability. A metric is null if the sources or groups of other classes are too few to
    show that false alarms are that rare, or if one side is absent; the table of points has it all the same.
    """
    metrics: dict[str, Metric] = {}
    points: list[tuple[object, ...]] = []
    curves: dict[str, list[pd.DataFrame]] = {}
    for index, name in enumerate(predictions.classes):
        positive, scores = predictions.targets == index, predictions.probabilities[:, index]
        if positive.all() or not positive.any():
            absent = Reason("only_class" if positive.all() else "class_absent", name=name)
            metrics |= {f"recall_at/{rate:g}/{name}": Metric(None, 0, reason=absent) for rate in rates}
            continue
        units = predictions.units.usable
        for rate in rates:
            threshold, recall, alarms = find_operating_point(block, scores, positive, units, rate)
            n, required = alarms.units or 0, selective.count_required(rate, block.level)
            threshold = threshold if np.isfinite(threshold) else np.nan  # none keeps the rate
            counts = int(positive.sum()), int((~positive).sum()), n
            seen = alarms.value, alarms.high, required, alarms.unit, alarms.population
            points.append((name, rate, recall.value, recall.low, recall.high, threshold, *counts, *seen))
            code = "few_other_sources" if alarms.unit == SOURCE else "few_others"
            few = Reason(code, n=n, rate=rate, required=required)
            metric = intervals.mark_single_source(recall, predictions.units)
            metrics[f"recall_at/{rate:g}/{name}"] = metric if n >= required else Metric(None, n, reason=few)
        ends = _compute_curves(block, scores, positive, units)
        for kind, x, y, grid, part in (
            ("roc", "false_alarms", "recall", _ALARM_RATES, ends[: len(_ALARM_RATES)]),
            ("precision_recall", "recall", "precision", _RECALLS, ends[len(_ALARM_RATES) :]),
        ):
            columns = dict(zip((y, "low", "high"), part.T, strict=True))
            curves.setdefault(kind, []).append(pd.DataFrame({"class": name, x: grid, **columns}))
    tables = {"operating_points": pd.DataFrame(points, columns=_POINT_COLUMNS)}
    return metrics, tables | {kind: pd.concat(parts, ignore_index=True) for kind, parts in curves.items()}


def find_operating_point(
    block: intervals.IntervalOptions, scores: Reals, positive: NDArray[np.bool_], units: Units, rate: float
) -> tuple[float, Metric, Metric]:
    """Return the threshold at a rate of false alarms, and recall and false alarms there.

    For new sources the rate is the mean over the sources of other classes. It is at most `rate` on these images, which
    chose the threshold; elsewhere it may be as high as its high end.
    """
    threshold = detection.find_threshold(scores, positive, rate, units.weights)
    recall, alarms = (
        intervals.compute_proportion(block, scores >= threshold, units, floor=rate, among=side)
        for side in (positive, ~positive)
    )
    seen = alarms.value or 0.0, alarms.high or 0.0, alarms.units or 0, block.level, alarms.unit == SOURCE
    return threshold, recall, replace(alarms, high=operating_curve.raise_high_end(*seen))


def _compute_curves(
    block: intervals.IntervalOptions, scores: Reals, positive: NDArray[np.bool_], units: Units
) -> Floats:
    """Compute the recall at _ALARM_RATES and the precision at _RECALLS: value, low, high (K, 3).

    Intervals have thresholds chosen anew. Where they collapse, as at a recall of 1, it is Wilson's interval over the
    units of the images found.
    """
    recalls = [partial(detection.compute_recall_at, rate=rate) for rate in _ALARM_RATES]
    precisions = [partial(detection.compute_precision_at, recall=recall) for recall in _RECALLS]
    statistic = detection.build_roc_statistic(scores, positive, [*recalls, *precisions])
    values = statistic(units.weights[None] * len(units))[0]
    if units.sources is None:
        about = block.resamples, block.level, block.seed, intervals.PROPORTION
        lows, highs = stats.bootstrap_interval(statistic, units, *about)
    else:
        lows, highs = stats.jackknife_interval(statistic, units, block.level, intervals.PROPORTION)
    counts = units.take(positive).count * np.append(np.ones(len(_ALARM_RATES)), _RECALLS)
    for index in np.flatnonzero(~(highs - lows > _ROUNDING)).tolist():
        n = max(1, round(counts[index]))
        lows[index], highs[index] = stats.wilson(n * values[index], n, block.level)
    return np.column_stack([values, lows, highs])


def tabulate_operating_curve(block: intervals.IntervalOptions, sets: Mapping[str, Predictions]) -> pd.DataFrame:
    """Tabulate coverage, error, and recall and false alarms of each class, of each set at thresholds of the confidence.

    Recall and false alarms have intervals at 1 - (1 - level) / 2, so that one at `level` follows for the precision.
    """
    rates = replace(block, level=1 - (1 - block.level) / 2)
    rows = []
    for name, predictions in sets.items():
        thresholds = operating_curve.list_thresholds(len(predictions.classes))
        answers = predictions.confidence, predictions.predicted, predictions.targets, thresholds
        kinds = [(measure, "", block) for measure in operating_curve.OF_ALL]
        kinds += [(measure, of, rates) for of in predictions.classes for measure in operating_curve.OF_CLASS]
        for measure, of, options in kinds:
            hits = operating_curve.mark_outcomes(*answers, measure, predictions.classes.index(of) if of else -1)
            metrics = intervals.compute_proportions(options, hits, predictions.units)
            for threshold, metric in zip(thresholds.tolist(), metrics, strict=True):
                ends = make_columns("value", metric)
                if measure == operating_curve.FALSE_ALARMS and metric.value is not None:
                    seen = metric.value, metric.high or 0.0, metric.units or 0
                    ends["high"] = operating_curve.raise_high_end(*seen, options.level, metric.unit == SOURCE)
                about = {"set": name, "measure": measure, "class": of, "threshold": threshold}
                rows.append(about | ends | {"n": metric.n, "level": options.level, **metric.inference})
    return pd.DataFrame(rows)


def find_broken_sources(
    block: intervals.IntervalOptions, predictions: Predictions, rule: DecisionRule, target: float
) -> tuple[dict[str, Any], Metric, pd.DataFrame]:
    """Return how many sources of a set exceed a target error by a rule, their fraction of the counted, and each one."""
    decided = rule.decide(predictions.probabilities, predictions.embeddings)
    answered = (decided["decision"] != ABSTAIN).to_numpy()
    units = _find_sources(predictions)
    counted, broken = selective.find_broken_sources(answered, predictions.correct, units, target)
    images = pd.DataFrame({"unit": units, "source": predictions.sources, "answered": answered})
    images["class"] = np.array([*predictions.classes, ""], dtype=object)[predictions.targets]
    images["errors"] = answered & ~predictions.correct
    by_unit = images.groupby("unit")
    rows = by_unit[["source", "class"]].agg(_join).assign(n=by_unit.size())
    rows = rows.join(by_unit[["answered", "errors"]].sum()).reset_index(drop=True)
    rows = rows.assign(counted=counted, breaks=broken)  # both in the order of the units
    _add_proportion(rows, "coverage", "answered", "n", block.level)
    _add_proportion(rows, "error", "errors", "answered", block.level)
    n, hits = int(counted.sum()), int(broken.sum())
    counts = {"sources": len(counted), "counted": n, "broken": hits, "coverage": float(answered.mean())}
    if not n:
        none = Metric(None, 0, higher_is_better=False, reason=Reason("no_source_counted", least=selective.MIN_ANSWERS))
        return counts | {"fraction": np.nan, "low": np.nan, "high": np.nan}, none, rows
    low, high = stats.wilson(hits, n, block.level)
    metric = Metric(hits / n, n, low, high, "wilson by source", higher_is_better=False)
    return counts | {"fraction": hits / n, "low": low, "high": high}, metric, rows


def trace_sources(block: intervals.IntervalOptions, predictions: Predictions, target: float) -> pd.DataFrame:
    """Return the fraction of the counted sources that exceed a target error by the threshold of the confidence."""
    sources = _find_sources(predictions)
    trace = selective.trace_sources(predictions.confidence, predictions.correct, sources, target)
    rows = pd.DataFrame({name: getattr(trace, name) for name in ("coverage", "counted", "broken")})
    rows.insert(0, "confidence", trace.thresholds)
    rows = rows[rows["counted"] > 0].drop_duplicates("coverage", ignore_index=True)
    _add_proportion(rows, "fraction", "broken", "counted", block.level)
    return rows


def _add_proportion(rows: pd.DataFrame, name: str, part: str, total: str, level: float) -> None:
    """Add a column that divides two others, with Wilson's interval; NaN where `total` is 0."""
    pairs = list(zip(rows[part].astype(float), rows[total].astype(float), strict=True))
    ends = [stats.wilson(hits, n, level) if n else (np.nan, np.nan) for hits, n in pairs]
    rows[name] = stats.ratio(rows[part], rows[total])
    rows[[f"{name}_low", f"{name}_high"]] = np.array(ends).reshape(-1, 2)


def _join(names: pd.Series[str]) -> str:
    return ", ".join(sorted(set(names)))


def _find_sources(predictions: Predictions) -> NDArray[np.intp]:
    """Return the source of each image, (N,), those of one publisher joined, as a number."""
    return encode(predictions.sources) if predictions.origins is None else predictions.origins


def compare_stability(
    block: intervals.IntervalOptions, predictions: Predictions, versions: Sequence[Predictions]
) -> tuple[pd.DataFrame, dict[str, Metric]]:
    """Return the error at equal coverage by three orders of the labelled images, and what two of them save.

    Images are answered in the order of their confidence, with the stable ones first, or by answer and confidence of the
    mean probabilities of all versions: half of them, as many as are stable, and all. Ties are broken at random. What is
    saved is the error by confidence less that by the order, on resamples of the same units.
    """
    known = predictions.targets >= 0
    metrics = {"stable": intervals.compute_proportion(block, predictions.find_stable(versions), predictions.units)}
    plain, varied = predictions.take(known), [version.take(known) for version in versions]
    if not known.any():
        return pd.DataFrame(), metrics
    is_stable = plain.find_stable(varied)
    mean = np.mean([part.probabilities for part in (plain, *varied)], axis=0)
    draw, wrong = np.random.default_rng(block.seed).random(len(plain)), ~plain.correct
    orders = {
        "confidence": (np.lexsort((draw, -plain.confidence)), wrong),
        "stability": (np.lexsort((draw, -plain.confidence, ~is_stable)), wrong),
        "averaging": (np.lexsort((draw, -mean.max(axis=1))), mean.argmax(axis=1) != plain.targets),
    }
    counts = {"half": len(plain) // 2, "stable": int(is_stable.sum()), "all": len(plain)}
    keys = [(images, order) for images in counts for order in orders if (images, order) != ("all", "stability")]
    against = [keys.index((images, "confidence")) for images, __ in keys]
    errors = np.full((len(plain), len(keys)), np.nan)
    for column, (images, order) in zip(errors.T, keys, strict=True):
        ranked, is_wrong = orders[order]
        answered = ranked[: counts[images]]
        column[answered] = is_wrong[answered]
    saved = intervals.bootstrap_metrics(
        block,
        [f"{images}/{order}" for images, order in keys],
        stats.build_mean_statistic(errors).then(lambda means: means[:, against] - means),
        plain.units,
        reason=Reason("nothing_answered"),
        bounds=intervals.DIFFERENCE,
    )
    rows = [
        {
            "images": images,
            "order": order,
            "n": len(plain),
            "coverage": counts[images] / len(plain),
            "errors": int(np.nansum(column)),
            **make_columns("error", error, "error_"),
            **(make_columns("saved", saved[f"{images}/{order}"], "saved_") if order != "confidence" else {}),
            **error.inference,
        }
        for (images, order), column, error in zip(
            keys, errors.T, intervals.compute_proportions(block, errors, plain.units, False), strict=True
        )
    ]
    metrics |= {f"saved_by_{order}": saved[f"stable/{order}"] for order in orders if order != "confidence"}
    return pd.DataFrame(rows), metrics


def describe_thresholds(rules: Mapping[float, DecisionRule]) -> tuple[pd.DataFrame, dict[str, Metric]]:
    """Return the confidence threshold of each target, with the images of its fit and the bound of the error there."""
    rows, metrics = [], {}
    for target, rule in rules.items():
        fit = rule.thresholds[""]
        value, bound, metric = fit.value, fit.bound, Metric(fit.bound, fit.answered, higher_is_better=False)
        if np.isinf(fit.value):
            value, bound = np.nan, np.nan
            metric = Metric(None, fit.n, higher_is_better=False, reason=explain_unmet(fit, target))
        metrics[f"bound/{target:g}"] = metric
        rows.append((target, value, fit.n, fit.n_errors, fit.answered, fit.errors, bound, rule.reference is not None))
    columns = ["target_error", "threshold", "n", "n_errors", "answered", "errors", "bound", "unlike_rule"]
    return pd.DataFrame(rows, columns=columns), metrics


def list_parts(predictions: Predictions, columns: pd.DataFrame) -> list[Part]:
    """Return the slices of a set by true class, predicted class and source, and by these columns (N, K) of strings."""
    parts = []
    for by, places in (("class", predictions.targets), ("prediction", predictions.predicted)):
        parts += [Part(by, name, places == index) for index, name in enumerate(predictions.classes)]
    for by, values in {"source": predictions.sources, **{str(by): columns[by].to_numpy(str) for by in columns}}.items():
        parts += [Part(by, str(name), values == name) for name in np.unique(values) if name]
    return [part for part in parts if part.images.any()]


def tabulate_gaps(
    block: intervals.IntervalOptions,
    about: Mapping[str, Any],
    predictions: Predictions,
    answered: NDArray[np.bool_],
    parts: Sequence[Part],
    minimum: int,
) -> pd.DataFrame:
    """Tabulate the largest difference of coverage and of error between slices of a column, each of `minimum` images."""
    counted = answered & (predictions.targets >= 0)
    rows = []
    for by in dict.fromkeys(part.by for part in parts):
        compared = [part for part in parts if part.by == by]
        names, member = [part.name for part in compared], np.stack([part.images for part in compared], axis=1)
        for measure, shown, hits in (
            ("coverage", member, answered),
            ("error", member & counted[:, None], ~predictions.correct),
        ):
            values = np.where(shown, hits[:, None], np.nan).astype(np.float64)
            gap = intervals.find_gap(block, names, values, predictions.units, minimum)
            rows += [{**about, "by": by, "measure": measure, **gap}] if gap else []
    return pd.DataFrame(rows, columns=[*about, "by", "measure", *intervals.GAP_COLUMNS])


def warn_of_set(rows: pd.DataFrame, is_further: bool) -> list[Reason]:
    """Return whether a set breaks the promise, and what abstaining on unlike images saves on a further set."""
    reasons = []
    first_row = rows.iloc[0]
    name, target = first_row["set"], first_row["target_error"]
    if first_row["fails"]:
        ends = {"low": first_row["error_low"], "high": first_row["error_high"]}
        reasons.append(Reason("promise_broken", name=name, target=target, error=first_row["error"], **ends))
    if is_further and len(rows) == 2:
        plain = rows.iloc[1]
        shares = {"before": plain["coverage"], "after": first_row["coverage"]}
        if plain["errors"] > 0 and first_row["answered"] > 0:
            errors = {"error_before": plain["error"], "error_after": first_row["error"]}
            reasons.append(Reason("unlike_images", name=name, target=target, n=first_row["unlike"], **shares, **errors))
        elif np.isnan(plain["error"]) and plain["answered"] > 0:  # no image has a class, so every answer is an error
            reasons.append(Reason("unlike_images_of_no_class", name=name, target=target, **shares))
    return reasons


def decide(
    block: Decision, name: str, predictions: Predictions, rule: DecisionRule, target: float, parts: Sequence[Part]
) -> tuple[dict[str, pd.DataFrame], dict[str, Metric]]:
    """Return the tables of a set, with and without the rule on unlike images, of slices and gaps, and its metrics."""
    labelled = predictions.targets >= 0
    everything = Part("", "", np.ones(len(predictions), dtype=bool))
    table = rule.decide(predictions.probabilities, predictions.embeddings)
    answered, unlike = (table["decision"] != ABSTAIN).to_numpy(), (table["decision_reason"] == UNLIKE).to_numpy()
    counts = _count(block, predictions, answered, [everything, *parts], target)
    none = Reason("nothing_answered" if labelled.any() else "no_known_class")
    metrics = {}
    for kind, metric in zip(_PROPORTIONS, counts[0][1], strict=True):
        better = replace(metric, higher_is_better=kind == "coverage")
        metrics[f"{kind}/{target:g}"] = replace(better, reason=none) if metric.value is None else better
    has_rule, about = rule.reference is not None, {"target_error": target, "set": name}
    rows = [{**about, "unlike_rule": has_rule, **counts[0][0], "unlike": int(unlike.sum())}]
    if has_rule:
        plain = replace(rule, reference=None).decide(predictions.probabilities, None)
        always = (plain["decision"] != ABSTAIN).to_numpy()
        row, __ = _count(block, predictions, always, [everything], target)[0]
        rows.append({**about, "unlike_rule": False, **row, "unlike": 0})
        if labelled.any():  # by how much the rule lowers the error among answered images, paired
            errors = [np.where(rows & labelled, ~predictions.correct, np.nan) for rows in (always, answered)]
            means = stats.build_mean_statistic(np.stack(errors, axis=1))
            saved = means.then(lambda both: both[:, :1] - both[:, 1:])
            key, why = [f"saved/{target:g}"], Reason("nothing_answered")
            metrics |= intervals.bootstrap_metrics(
                block, key, saved, predictions.units, reason=why, bounds=intervals.DIFFERENCE
            )
    slices = [
        {**about, "by": part.by, "slice": part.name, **row} for part, (row, __) in zip(parts, counts[1:], strict=True)
    ]
    gaps = tabulate_gaps(block, about, predictions, answered, parts, block.minimum)
    return {"sets": pd.DataFrame(rows), "slices": pd.DataFrame(slices), "gaps": gaps}, metrics


def _count(
    block: intervals.IntervalOptions,
    predictions: Predictions,
    answered: NDArray[np.bool_],
    parts: Sequence[Part],
    target: float,
) -> list[tuple[dict[str, Any], list[Metric]]]:
    """Count answered images and errors of each part, with the intervals of both proportions; NaN without an image."""
    member = np.stack([part.images for part in parts], axis=1)
    counted = member & (answered & (predictions.targets >= 0))[:, None]
    columns = np.concatenate(
        [np.where(member, answered[:, None], np.nan), np.where(counted, ~predictions.correct[:, None], np.nan)], axis=1
    )
    metrics = intervals.compute_proportions(block, columns, predictions.units)
    rows = []
    for index, part in enumerate(parts):
        row: dict[str, Any] = {"n": int(part.images.sum())}
        both = [metrics[index], metrics[len(parts) + index]]
        for (kind, total), metric, hits in zip(_PROPORTIONS.items(), both, columns.T[index :: len(parts)], strict=True):
            ends = make_columns(kind, metric, f"{kind}_")
            row |= {total: int(np.nansum(hits))} | {
                end: np.nan if value is None else value for end, value in ends.items()
            }
        for kind, metric in zip(_PROPORTIONS, both, strict=True):
            row |= {f"{kind}_{name}": value for name, value in metric.inference.items()}
        rows.append((row | {"excess": row["error"] - target, "fails": row["error_low"] > target}, both))
    return rows
