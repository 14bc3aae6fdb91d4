"""Decisions of a run at target errors: coverage and error among answered images, by set and slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.intervals import DIFFERENCE, bootstrap_metrics, compute_proportions
from avatar_bench.evaluation.slice_gaps import GAP_COLUMNS, find_gap
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import INFERENCE_COLUMNS, Metric
from avatar_bench.runs.decision_costs import ABSTAIN
from avatar_bench.runs.decisions import UNLIKE, DecisionRule, explain_unmet

if TYPE_CHECKING:
    from avatar_bench.evaluation.blocks.decision import Decision
    from avatar_bench.evaluation.intervals import IntervalOptions
    from avatar_bench.results.predictions import Predictions

Floats = NDArray[np.float64]
_THRESHOLD_COLUMNS = ["target_error", "threshold", "n", "n_errors", "answered", "errors", "bound", "unlike_rule"]
_ENDS = {"": "value", "_low": "low", "_high": "high"}
_COUNTS = ["n", "answered", "coverage", "coverage_low", "coverage_high", "errors", "error", "error_low", "error_high"]
_COUNTS += [f"{kind}_{column}" for kind in ("coverage", "error") for column in INFERENCE_COLUMNS]
_SET_COLUMNS = ["target_error", "set", "unlike_rule", *_COUNTS, "excess", "fails", "unlike"]
_SLICE_COLUMNS = ["target_error", "set", "by", "slice", *_COUNTS, "excess", "fails"]


class Part(NamedTuple):
    """Images (N,) of a slice of a set: the column by which it is sliced, and its value there; "" for all images."""

    by: str
    name: str
    images: NDArray[np.bool_]


def tabulate_thresholds(rules: Mapping[float, DecisionRule]) -> pd.DataFrame:
    """Tabulate the confidence threshold of each target, with the images of its fit and the bound of the error."""
    rows = []
    for target, rule in rules.items():
        one = rule.thresholds[""]
        value, bound = (one.value, one.bound) if np.isfinite(one.value) else (np.nan, np.nan)
        counts = one.n, one.n_errors, one.answered, one.errors
        rows.append((target, value, *counts, bound, rule.reference is not None))
    return pd.DataFrame(rows, columns=_THRESHOLD_COLUMNS)


def compute_bounds(rules: Mapping[float, DecisionRule]) -> dict[str, Metric]:
    """Return the bound of the error among answered images that the fit of each target shows."""
    found = {}
    for target, rule in rules.items():
        one = rule.thresholds[""]
        found[f"bound/{target:g}"] = (
            Metric(one.bound, one.answered, higher_is_better=False)
            if np.isfinite(one.value)
            else Metric(None, one.n, higher_is_better=False, reason=explain_unmet(one, target))
        )
    return found


def list_parts(predictions: Predictions, columns: pd.DataFrame) -> list[Part]:
    """Return the slices of a set by true class, predicted class and source, and by these columns (N, K) of strings."""
    found = []
    for by, places in (("class", predictions.targets), ("prediction", predictions.predicted)):
        found += [Part(by, name, places == index) for index, name in enumerate(predictions.classes)]
    for by, values in {"source": predictions.sources, **{str(by): columns[by].to_numpy(str) for by in columns}}.items():
        found += [Part(by, str(name), values == name) for name in np.unique(values) if name]
    return [part for part in found if part.images.any()]


def tabulate_gaps(
    block: IntervalOptions,
    about: Mapping[str, Any],
    predictions: Predictions,
    answered: NDArray[np.bool_],
    parts: Sequence[Part],
    minimum: int,
) -> pd.DataFrame:
    """Tabulate the largest difference of coverage and of error between slices of a column, each of `minimum` images.

    Rows begin with `about`. Slices of the error are those of answered images.
    """
    counted = answered & (predictions.targets >= 0)
    rows = []
    for by in dict.fromkeys(part.by for part in parts):
        own = [part for part in parts if part.by == by]
        names, member = [part.name for part in own], np.stack([part.images for part in own], axis=1)
        for measure, shown, hits in (
            ("coverage", member, answered),
            ("error", member & counted[:, None], ~predictions.correct),
        ):
            values = np.where(shown, hits[:, None], np.nan).astype(np.float64)
            gap = find_gap(block, names, values, predictions.group_codes, minimum)
            rows += [{**about, "by": by, "measure": measure, **gap}] if gap else []
    return pd.DataFrame(rows, columns=[*about, "by", "measure", *GAP_COLUMNS])


def warn_of_set(rows: pd.DataFrame, is_further: bool) -> list[Reason]:
    """Return whether a set breaks the promise, and what abstaining on unlike images saves on a further set."""
    found = []
    own = rows.iloc[0]
    name, target = own["set"], own["target_error"]
    if own["fails"]:
        ends = {"low": own["error_low"], "high": own["error_high"]}
        found.append(Reason("promise_broken", name=name, target=target, error=own["error"], **ends))
    if is_further and len(rows) == 2:
        plain = rows.iloc[1]
        shares = {"before": plain["coverage"], "after": own["coverage"]}
        if plain["errors"] > 0 and own["answered"] > 0:
            errors = {"error_before": plain["error"], "error_after": own["error"]}
            found.append(Reason("unlike_images", name=name, target=target, n=own["unlike"], **shares, **errors))
        elif np.isnan(plain["error"]) and plain["answered"] > 0:  # no image has a class, so every answer is an error
            found.append(Reason("unlike_images_of_no_class", name=name, target=target, **shares))
    return found


def decide(
    block: Decision, name: str, predictions: Predictions, rule: DecisionRule, target: float, parts: Sequence[Part]
) -> tuple[dict[str, pd.DataFrame], dict[str, Metric]]:
    """Return the tables of a set, with and without the rule on unlike images, of its slices and gaps, and its metrics.

    The names of the metrics have no set. Images without a known class count as answered or not, and have no error.
    """
    labelled = predictions.targets >= 0
    everything = Part("", "", np.ones(len(predictions), dtype=bool))
    table = rule.decide(predictions.probabilities, predictions.embeddings)
    answered, unlike = (table["decision"] != ABSTAIN).to_numpy(), (table["decision_reason"] == UNLIKE).to_numpy()
    counts = _count(block, predictions, answered, [everything, *parts])
    about = {"target_error": target, "set": name}
    rows = [{**about, "unlike_rule": True, **counts[0], "unlike": int(unlike.sum())}]
    metrics = _make_metrics(counts[0], target, bool(labelled.any()))
    if rule.reference is not None:
        plain = replace(rule, reference=None).decide(predictions.probabilities, None)
        always = (plain["decision"] != ABSTAIN).to_numpy()
        rows.append({**about, "unlike_rule": False, **_count(block, predictions, always, [everything])[0], "unlike": 0})
        if labelled.any():
            metrics |= _compute_savings(block, predictions, answered, always, target)
    else:
        rows[0]["unlike_rule"] = False
    slices = [{**about, "by": part.by, "slice": part.name, **row} for part, row in zip(parts, counts[1:], strict=True)]
    sets = pd.DataFrame(rows)
    tables = [sets, pd.DataFrame(slices, columns=[*about, "by", "slice", *_COUNTS])]
    for each in tables:
        each["excess"] = each["error"] - target
        each["fails"] = each["error_low"] > target
    found = {
        "sets": sets.reindex(columns=_SET_COLUMNS),
        "slices": tables[1].reindex(columns=_SLICE_COLUMNS),
        "gaps": tabulate_gaps(block, about, predictions, answered, parts, block.minimum),
    }
    return found, metrics


def _count(
    block: IntervalOptions, predictions: Predictions, answered: NDArray[np.bool_], parts: Sequence[Part]
) -> list[dict[str, Any]]:
    """Count answered images and errors of each part, with the intervals of both proportions; NaN without an image."""
    member = np.stack([part.images for part in parts], axis=1)
    counted = member & (answered & (predictions.targets >= 0))[:, None]
    columns = np.concatenate(
        [np.where(member, answered[:, None], np.nan), np.where(counted, ~predictions.correct[:, None], np.nan)], axis=1
    )
    metrics = compute_proportions(block, columns, predictions.units)
    rows = []
    for place in range(len(parts)):
        row: dict[str, Any] = {"n": int(member[:, place].sum())}
        for kind, total, column in (("coverage", "answered", place), ("error", "errors", place + len(parts))):
            metric, hits = metrics[column], int(np.nansum(columns[:, column]))
            ends = {f"{kind}{end}": getattr(metric, part) for end, part in _ENDS.items()}
            row |= {total: hits} | {name: np.nan if value is None else value for name, value in ends.items()}
            row |= {f"{kind}_{name}": value for name, value in metric.inference.items()} | {f"{kind}_metric": metric}
        rows.append(row)
    return rows


def _make_metrics(row: Mapping[str, Any], target: float, is_labelled: bool) -> dict[str, Metric]:
    """Return coverage and error of a set, the latter null if nothing is answered or no class is known."""
    none = Reason("nothing_answered" if is_labelled else "no_known_class")
    found = {}
    for kind, better in (("coverage", True), ("error", False)):
        metric = replace(row[f"{kind}_metric"], higher_is_better=better)
        found[f"{kind}/{target:g}"] = replace(metric, reason=none) if metric.value is None else metric
    return found


def _compute_savings(
    block: IntervalOptions,
    predictions: Predictions,
    answered: NDArray[np.bool_],
    always: NDArray[np.bool_],
    target: float,
) -> dict[str, Metric]:
    """Compute by how much abstaining on unlike images lowers the error among answered images, paired."""
    labelled = predictions.targets >= 0
    wrong = ~predictions.correct
    columns = [np.where(rows & labelled, wrong, np.nan) for rows in (always, answered)]
    means = stats.build_mean_statistic(np.stack(columns, axis=1))
    statistic = means.then(lambda errors: errors[:, :1] - errors[:, 1:])
    name, none = f"saved/{target:g}", Reason("nothing_answered")
    return bootstrap_metrics(block, [name], statistic, predictions.units, True, reason=none, bounds=DIFFERENCE)
