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
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import AGAINST_FOLDER, Metric, Result

Floats = NDArray[np.float64]
NEW, EARLIER = "new", "earlier"
_OVERALL_METRICS = {
    "accuracy": classification.accuracy,
    "balanced_accuracy": classification.balanced_accuracy,
    "macro_precision": classification.macro_precision,
    "macro_f1": classification.macro_f1,
    "mcc": classification.mcc,
}
_CLASS_METRICS = {"recall": classification.recall, "precision": classification.precision, "f1": classification.f1}
_PREDICTION_COLUMNS = (
    "path",
    "target",
    "prediction",
    "group",
)  # columns of a table of predictions besides prob_<class>


@dataclass(frozen=True)
class CommonImages:
    """Images that both results contain, with the true class, group and both predictions of each."""

    table: pd.DataFrame
    classes: tuple[str, ...]
    by: str
    n_relabelled: int

    @property
    def groups(self) -> NDArray[np.str_]:
        """Return the group of each image in the new result, (N,)."""
        return self.table["group"].to_numpy(np.str_)

    def predictions(self, whose: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Return the targets (N,), predictions (N,) and probabilities (N, C) of the new or the earlier result."""
        place = {name: index for index, name in enumerate(self.classes)}
        targets, predicted = (
            np.asarray(self.table[column].map(place), dtype=np.int64) for column in ("target", f"prediction_{whose}")
        )
        scores = self.table[[f"prob_{name}_{whose}" for name in self.classes]]
        return targets, predicted, np.asarray(scores, dtype=np.float64)


def compare(results: Sequence[tuple[Result, Result]], alpha: float) -> Result:
    """Return the differences, new minus earlier, of each pair of Results of one block.

    They are paired if both contain a prediction for each image; table `pairs` then has the columns of the block
    significance, with the new result as a. Raise DataError if two Results of one set have no image in common.
    """
    first, other = results[0]
    found = Result(AGAINST_FOLDER, first.set, first.n, first.classes)
    rows: list[dict[str, Any]] = []
    pairs, changed = [], []
    for new, earlier in results:
        common = _match_images(new, earlier)
        paired: dict[str, Metric] = {}
        if common is not None:
            options, n = _build_options(new, alpha), len(common.table)
            pair = _compare_pair(common, options)
            paired = _compute_paired(common, options, pair)
            paired = {name: metric for name, metric in paired.items() if name in new.metrics}
            tested = {"p": float(pair["p"].iloc[0]), "images_in_common": float(n)}
            main = {"accuracy": paired["accuracy"]}
            main |= {name: Metric(value, n, higher_is_better=None) for name, value in tested.items()}
            found.metrics |= {f"{new.block}/{name}": metric for name, metric in main.items()}
            pairs.append(pair.assign(block=new.block))
            changed.append(_find_changed(common).assign(block=new.block))
            found.n = n
            found.warnings += _warn_about_matching(common, new, earlier)
        unpaired = dict(_compute_unpaired(new, earlier, set(paired)))
        found.metrics |= {f"{new.block}/{name}": metric for name, metric in (paired | unpaired).items()}
        rows += _build_rows(new, earlier, common, paired, unpaired)
    found.tables["differences"] = pd.DataFrame(rows)
    if pairs:
        found.tables |= {"pairs": pd.concat(pairs, ignore_index=True), "changed": pd.concat(changed, ignore_index=True)}
    else:
        found.warnings.append(Reason("no_common_predictions"))
    found.provenance = {
        "alpha": alpha,
        EARLIER: _describe_result(other),
        NEW: _describe_result(first),
    } | _describe_result(first)
    return found


def _build_options(new: Result, alpha: float) -> recipe_pairs.PairwiseOptions:
    """Return the interval options of the new Result, completed by those of significance."""
    stated = new.provenance.get("options", {})
    options = {name: stated[name] for name in ("level", "resamples", "seed") if name in stated}
    return recipe_pairs.PairwiseOptions(alpha=alpha, **options)


def _match_images(new: Result, earlier: Result) -> CommonImages | None:
    """Match images by content if both Results state it, else by path; copies are matched in order."""
    tables = [table for one in (new, earlier) if (table := _get_predictions(one)) is not None]
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
    if joined.empty:
        return None
    same = joined[f"target_{NEW}"] == joined[f"target_{EARLIER}"]
    matched = joined[same].reset_index(drop=True)
    matched = matched.rename(columns={f"{name}_{NEW}": name for name in ("path", "target", "group")})
    return CommonImages(matched, new.classes, by, int((~same).sum())) if len(matched) else None


def _get_predictions(one: Result) -> pd.DataFrame | None:
    """Return a Result's predictions, one row per image, with names as text; None if it has no such table."""
    table = one.tables.get("predictions")
    if table is None or not {*_PREDICTION_COLUMNS, *(f"prob_{name}" for name in one.classes)} <= set(table):
        return None
    if table["path"].duplicated().any():
        return None
    return table.assign(**{name: table[name].fillna("").astype(str) for name in _PREDICTION_COLUMNS})


def _compare_pair(common: CommonImages, options: recipe_pairs.PairwiseOptions) -> pd.DataFrame:
    """Compare the two results like the block significance: one row, with the new result as a."""
    correct = np.stack([np.equal(*common.predictions(whose)[:2]) for whose in (NEW, EARLIER)])
    recipes = Recipes({NEW: [0], EARLIER: [1]}, correct, common.groups, (0, 0))
    row = recipe_pairs.compare_pair(recipes, recipes.draw(options), 0, 1, options.level, options.power, options.alpha)
    return recipe_pairs.mark_significant(pd.DataFrame([row]), options.alpha)


def _compute_paired(
    common: CommonImages, options: recipe_pairs.PairwiseOptions, pair: pd.DataFrame
) -> dict[str, Metric]:
    """Compute the difference of each classification metric on the same resamples of groups."""
    new, earlier = (_build_statistic(*common.predictions(whose)) for whose in (NEW, EARLIER))
    found = bootstrap_metrics(
        options, _list_metrics(common.classes), lambda weights: new(weights) - earlier(weights), common.groups
    )
    found = {name: replace(one, interval=one.interval and f"paired {one.interval}") for name, one in found.items()}
    row = pair.iloc[0]  # computed by the same functions as in significance
    if not np.isnan(row["low"]):
        value, low, high = (float(row[name]) for name in ("difference", "low", "high"))
        found["accuracy"] = replace(found["accuracy"], value=value, low=low, high=high)
    return found


def _list_metrics(classes: Sequence[str]) -> list[str]:
    return [*_OVERALL_METRICS, *(f"{kind}/{name}" for kind in (*_CLASS_METRICS, "auroc") for name in classes)]


def _build_statistic(targets: NDArray[np.intp], predicted: NDArray[np.intp], scores: Floats) -> stats.Statistic:
    """Return a function that maps weights (B, N) to the metrics of `_list_metrics`, (B, K)."""

    def statistic(weights: Floats) -> Floats:
        confusion = classification.confusion_matrix(targets, predicted, scores.shape[1], weights)
        aurocs = [classification.auroc(column, targets == index, weights) for index, column in enumerate(scores.T)]
        by_class = [function(confusion) for function in _CLASS_METRICS.values()]
        return np.column_stack([*(function(confusion) for function in _OVERALL_METRICS.values()), *by_class, *aurocs])

    return statistic


def _compute_unpaired(new: Result, earlier: Result, paired: set[str]) -> Iterator[tuple[str, Metric]]:
    """Yield the difference of each metric with a direction in both results, as if images were independent."""
    levels = [one.provenance.get("options", {}).get("level") for one in (new, earlier)]
    for name, a in new.metrics.items():
        b = earlier.metrics.get(name)
        if name in paired or b is None or a.higher_is_better is None or (a.value is None and b.value is None):
            continue
        n = min(a.n, b.n)
        if a.value is None or b.value is None:
            yield name, Metric(None, n, higher_is_better=a.higher_is_better, reason=a.reason or b.reason)
            continue
        difference, bounds = a.value - b.value, [(one.low, one.high) for one in (a, b)]
        if levels[0] != levels[1] or None in (*bounds[0], *bounds[1]):
            why = Reason("no_interval_at_level")
            yield name, Metric(difference, n, higher_is_better=a.higher_is_better, reason=why)
            continue
        low, high = stats.difference_interval((a.value, *bounds[0]), (b.value, *bounds[1]))  # type: ignore[arg-type]
        yield name, Metric(difference, n, low, high, "unpaired", a.higher_is_better)


def _build_rows(
    new: Result, earlier: Result, common: CommonImages | None, paired: dict[str, Metric], unpaired: dict[str, Metric]
) -> Iterator[dict[str, Any]]:
    values: dict[str, tuple[float | None, ...]] = {
        name: tuple(one.metrics[name].value for one in (new, earlier)) for name in unpaired
    }
    if common is not None:
        once = np.ones((1, len(common.table)))
        columns = [_build_statistic(*common.predictions(whose))(once)[0] for whose in (NEW, EARLIER)]
        values |= dict(zip(_list_metrics(common.classes), zip(*columns, strict=True), strict=True))
    for name, metric in (paired | unpaired).items():
        yield {
            "block": new.block,
            "metric": name,
            "comparison": "paired" if name in paired else "unpaired",
            "n": metric.n,
            NEW: values[name][0],
            EARLIER: values[name][1],
            "difference": metric.value,
            "low": metric.low,
            "high": metric.high,
            "higher_is_better": metric.higher_is_better,
            "reason": str(metric.reason or ""),
        }


def _find_changed(common: CommonImages) -> pd.DataFrame:
    """Return the images for which the two predict different classes."""
    columns = ["path", "target", f"prediction_{NEW}", f"prediction_{EARLIER}"]
    named = {f"prediction_{NEW}": NEW, f"prediction_{EARLIER}": EARLIER}
    return common.table.loc[common.table[columns[2]] != common.table[columns[3]], columns].rename(columns=named)


def _warn_about_matching(common: CommonImages, new: Result, earlier: Result) -> list[Reason]:
    n, found = len(common.table), []
    if n < max(new.n, earlier.n):
        found.append(Reason("fewer_common_images", n=n, new=new.n, earlier=earlier.n))
    if common.n_relabelled:
        found.append(Reason("relabelled", n=common.n_relabelled))
    return found + ([Reason("matched_by_path")] if common.by == "path" else [])


def _describe_result(one: Result) -> dict[str, Any]:
    names = ("run", "checkpoint_sha256", "data_fingerprint", "split", "version", "code")
    return {"set": one.set} | {name: one.provenance[name] for name in names if name in one.provenance}
