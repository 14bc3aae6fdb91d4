"""Differences between two results of the same blocks: paired on common images, otherwise unpaired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.errors import DataError
from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.intervals import bootstrap_metrics
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.metrics import classification, stats
from avatar_bench.metrics.stats import Floats
from avatar_bench.metrics.units import NEW_SOURCES, Units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import AGAINST_FOLDER, Metric, Result

NEW, EARLIER = "new", "earlier"
ONE_SOURCE = Reason("one_source")
_SHARED_COLUMNS = ("path", "target", "group", "source", "origin")
_OVERALL_METRICS = {"accuracy": classification.accuracy, **classification.MACRO_METRICS}
_CLASS_METRICS = {"recall": classification.recall, "precision": classification.precision, "f1": classification.f1}
_PREDICTION_COLUMNS = ("path", "target", "prediction", "group", "source")  # of a table, besides prob_<class>


@dataclass(frozen=True)
class CommonImages:
    """Images that both results contain, with the true class, group, source and both predictions of each.

    `is_new`: both results speak for new sources.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    by: str
    n_relabelled: int
    is_new: bool

    @property
    def units(self) -> Units:
        """Return the units of inference of the common images."""
        groups, origins, targets = (self.table[name].to_numpy(np.str_) for name in ("group", "origin", "target"))
        return Units(groups, origins, targets) if self.is_new else Units(groups, is_known=bool((origins != "").any()))

    def predictions(self, whose: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Return the targets (N,), predictions (N,) and probabilities (N, C) of the new or the earlier result."""
        indices = {name: index for index, name in enumerate(self.classes)}
        targets, predicted = (
            np.asarray(self.table[column].map(indices), dtype=np.int64) for column in ("target", f"prediction_{whose}")
        )
        scores = self.table[[f"prob_{name}_{whose}" for name in self.classes]]
        return targets, predicted, np.asarray(scores, dtype=np.float64)


def compare(results: Sequence[tuple[Result, Result]], alpha: float) -> Result:
    """Return the differences, new minus earlier, of each pair of Results of one block.

    They are paired if both contain a prediction for each image; table `pairs` then has the columns of the block
    significance, with the new result as a. Raise DataError if two Results of one set have no image in common.
    """
    first, other = results[0]
    result = Result(AGAINST_FOLDER, first.set, first.n, first.classes)
    rows: list[dict[str, Any]] = []
    pairs, changed = [], []
    for new, earlier in results:
        common = _match_images(new, earlier)
        paired: dict[str, Metric] = {}
        if common is not None:
            stated, result.n = new.provenance.get("options", {}), len(common.table)
            stated = {name: stated[name] for name in ("level", "resamples", "seed") if name in stated}
            options = recipe_pairs.PairwiseOptions(alpha=alpha, **stated)
            pair = _compare_pair(common, options)
            paired = _compute_paired(common, options, pair)
            paired = {name: metric for name, metric in paired.items() if name in new.metrics}
            result.metrics[f"{new.block}/accuracy"] = paired["accuracy"]
            p, reason = float(pair["p"].iloc[0]), Reason.parse_cell(pair["reason"].iloc[0])
            for name, value in {"p": None if reason else p, "images_in_common": float(result.n)}.items():
                why = reason if value is None else None
                result.metrics[f"{new.block}/{name}"] = Metric(value, result.n, higher_is_better=None, reason=why)
            pairs.append(pair.assign(block=new.block))
            named = common.table.rename(columns={f"prediction_{whose}": whose for whose in (NEW, EARLIER)})
            named = named.loc[named[NEW] != named[EARLIER], ["path", "target", NEW, EARLIER]]
            changed.append(named.assign(block=new.block))
            result.warnings += _warn_about_matching(common, new, earlier)
            result.warnings += recipe_pairs.warn_of_units(common.units, 1, alpha)
        unpaired = dict(_compute_unpaired(new, earlier, set(paired)))
        result.metrics |= {f"{new.block}/{name}": metric for name, metric in (paired | unpaired).items()}
        rows += _build_rows(new, earlier, common, paired, unpaired)
    result.tables["differences"] = pd.DataFrame(rows)
    if pairs:
        result.tables |= {
            "pairs": pd.concat(pairs, ignore_index=True),
            "changed": pd.concat(changed, ignore_index=True),
        }
    else:
        result.warnings.append(Reason("no_common_predictions"))
    about = _describe_result(first)
    result.provenance = {"alpha": alpha, EARLIER: _describe_result(other), NEW: about, **about}
    return result


def _match_images(new: Result, earlier: Result) -> CommonImages | None:
    """Match images by content if both Results state it, else by path; copies are matched in order."""
    tables = [table for result in (new, earlier) if (table := _get_predictions(result)) is not None]
    if len(tables) < 2 or "accuracy" not in new.metrics:
        return None
    by = "sha256" if all("sha256" in table for table in tables) else "path"
    keyed = [table.assign(copy=table.groupby(by).cumcount()) for table in tables]
    joined = keyed[0].merge(keyed[1], on=[by, "copy"], suffixes=(f"_{NEW}", f"_{EARLIER}"), sort=False)
    if joined.empty and new.set == earlier.set:
        raise DataError(
            f"against=: the two results of {new.block} on {new.set} have no image in common (matched by {by}).",
            "Evaluate both on the same images, or pass a result of another set for an unpaired comparison.",
        )
    same = joined[f"target_{NEW}"] == joined[f"target_{EARLIER}"]
    matched = joined[same].reset_index(drop=True)
    matched = matched.rename(columns={f"{name}_{NEW}": name for name in _SHARED_COLUMNS})
    accuracies = [result.metrics["accuracy"] for result in (new, earlier)]
    is_new = all(accuracy.population == NEW_SOURCES or accuracy.reason == ONE_SOURCE for accuracy in accuracies)
    return CommonImages(matched, new.classes, by, int((~same).sum()), is_new) if len(matched) else None


def _get_predictions(result: Result) -> pd.DataFrame | None:
    """Return a Result's predictions, one row per image, with names as text; None if it has no such table."""
    table = result.tables.get("predictions")
    needed = {*_PREDICTION_COLUMNS, *(f"prob_{name}" for name in result.classes)}
    if table is None or not needed <= set(table) or table["path"].duplicated().any():
        return None
    table = table.assign(origin=table["origin" if "origin" in table else "source"].fillna("").astype(str))
    return table.assign(**{name: table[name].fillna("").astype(str) for name in _PREDICTION_COLUMNS})


def _compare_pair(common: CommonImages, options: recipe_pairs.PairwiseOptions) -> pd.DataFrame:
    """Compare the two results like the block significance: one row, with the new result as a."""
    correct = np.stack([np.equal(*common.predictions(whose)[:2]) for whose in (NEW, EARLIER)])
    recipes = Recipes({NEW: [0], EARLIER: [1]}, correct, common.units, (0, 0))
    row = recipe_pairs.compare_pair(recipes, recipes.draw(options), 0, 1, options.level, options.power, options.alpha)
    return recipe_pairs.mark_significant(pd.DataFrame([row]), options.alpha)


def _compute_paired(
    common: CommonImages, options: recipe_pairs.PairwiseOptions, pair: pd.DataFrame
) -> dict[str, Metric]:
    """Compute the difference of each classification metric on the same resamples of units."""
    new, earlier = (_build_statistic(common, whose) for whose in (NEW, EARLIER))
    names = _list_metrics(common.classes)
    differences = stats.JoinedStatistic([new, earlier], lambda both: both[:, : len(names)] - both[:, len(names) :])
    most = np.where(np.array(names) == "mcc", 2.0, 1.0)
    metrics = bootstrap_metrics(options, names, differences, common.units, bounds=(-most, most))
    metrics = {name: replace(old, interval=old.interval and f"paired {old.interval}") for name, old in metrics.items()}
    row = pair.iloc[0]  # computed by the same functions as in significance
    if not np.isnan(row["low"]):
        value, low, high = (float(row[name]) for name in ("difference", "low", "high"))
        how = row["test"] if row["population"] == NEW_SOURCES else metrics["accuracy"].interval
        metrics["accuracy"] = replace(metrics["accuracy"], value=value, low=low, high=high, interval=how)
    return metrics


def _list_metrics(classes: Sequence[str]) -> list[str]:
    return [*_OVERALL_METRICS, *(f"{kind}/{name}" for kind in (*_CLASS_METRICS, "auroc") for name in classes)]


def _build_statistic(common: CommonImages, whose: str) -> stats.Statistic:
    """Return a function that maps weights (B, N) to the metrics of `_list_metrics`, (B, K)."""
    functions = (*_OVERALL_METRICS.values(), *_CLASS_METRICS.values())
    return classification.build_metrics_statistic(*common.predictions(whose), functions)


def _compute_unpaired(new: Result, earlier: Result, paired: set[str]) -> Iterator[tuple[str, Metric]]:
    """Yield the difference of each metric with a direction in both results, as if images were independent."""
    levels = [result.provenance.get("options", {}).get("level") for result in (new, earlier)]
    for name, a in new.metrics.items():
        b = earlier.metrics.get(name)
        if name in paired or b is None or a.higher_is_better is None or (a.value is None and b.value is None):
            continue
        n, ends = min(a.n, b.n), [(result.value, result.low, result.high) for result in (a, b)]
        if a.value is None or b.value is None:
            yield name, Metric(None, n, higher_is_better=a.higher_is_better, reason=a.reason or b.reason)
        elif levels[0] != levels[1] or None in (*ends[0], *ends[1]):
            why = Reason("no_interval_at_level")
            yield name, Metric(a.value - b.value, n, higher_is_better=a.higher_is_better, reason=why)
        else:
            low, high = stats.difference_interval(*ends)  # type: ignore[arg-type]
            metric = Metric(a.value - b.value, n, low, high, "unpaired", a.higher_is_better)
            yield name, replace(metric, population=a.population) if a.population == b.population else metric


def _build_rows(
    new: Result, earlier: Result, common: CommonImages | None, paired: dict[str, Metric], unpaired: dict[str, Metric]
) -> Iterator[dict[str, Any]]:
    values: dict[str, tuple[float | None, ...]] = {
        name: tuple(result.metrics[name].value for result in (new, earlier)) for name in unpaired
    }
    if common is not None:
        once = np.ones((1, len(common.table)))
        columns = [_build_statistic(common, whose)(once)[0] for whose in (NEW, EARLIER)]
        values |= dict(zip(_list_metrics(common.classes), zip(*columns, strict=True), strict=True))
    for name, metric in (paired | unpaired).items():
        kind = "paired" if name in paired else "unpaired"
        row: dict[str, Any] = {"block": new.block, "metric": name, "comparison": kind, "n": metric.n}
        row |= {NEW: values[name][0], EARLIER: values[name][1], "difference": metric.value}
        row |= {part: getattr(metric, part) for part in ("low", "high", "higher_is_better")} | metric.inference
        yield row | {"reason": str(metric.reason or "")}


def _warn_about_matching(common: CommonImages, new: Result, earlier: Result) -> list[Reason]:
    few = Reason("fewer_common_images", n=len(common.table), new=new.n, earlier=earlier.n)
    reasons = [few] if len(common.table) < max(new.n, earlier.n) else []
    reasons += [Reason("relabelled", n=common.n_relabelled)] if common.n_relabelled else []
    return reasons + ([Reason("matched_by_path")] if common.by == "path" else [])


def _describe_result(result: Result) -> dict[str, Any]:
    names = ("run", "checkpoint_sha256", "data_fingerprint", "split", "version", "code")
    return {"set": result.set} | {name: result.provenance[name] for name in names if name in result.provenance}
