"""error_bias: where a run misclassifies, which classes it predicts instead, and how confident it is in its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.data import image_slices
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import intervals
from avatar_bench.evaluation.block import make_columns, read_labelled, read_ood_sets, tabulate_predictions
from avatar_bench.metrics import accuracy_tests as chance
from avatar_bench.metrics import classification, stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

_CONFIDENCE_METRICS: dict[str, bool | None] = dict.fromkeys(("mean_confidence", "std_confidence"))  # higher is better
_CONFIDENCE_METRICS |= {"mean_confidence_correct": True, "mean_confidence_incorrect": False}
_COLUMNS = [
    *("by", "slice", "target", "n", "groups", "accuracy", "low", "high", "low_joint", "high_joint"),
    *("rest", "p", "p_adjusted", "mean_confidence", "most_common_error"),
]
_OOD_COLUMNS = ["set", "path", "group", "prediction", "confidence"]


class Slice(NamedTuple):
    """Images (N,) of one slice: those of one true class, or of all its classes if `target` is ""."""

    by: str
    name: str
    target: str
    images: NDArray[np.bool_]
    others: NDArray[np.bool_]


@dataclass(kw_only=True)
class ErrorBias(intervals.IntervalOptions):
    """Accuracy of a run by source, generator, size, format and JPEG quality, with bias and confidence of its errors."""

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    minimum: int = option(
        20, help="images per slice; smaller slices are listed, but not tested or ranked", range=(1, None)
    )

    slices: list[str] = option([], help="further columns of the manifest to slice by, such as [age,skin_tone]")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute bias and confidence of the predictions, and the accuracy of each slice, over the labelled images."""
        rows, predictions, unlabelled = read_labelled(run, dataset)
        why = Reason("no_ood_set")
        try:
            ood = {name: further for name, (__, further) in read_ood_sets(run).items()}
        except BlockError as error:
            ood, why = {}, Reason("ood_set_unreadable", why=error.lines[0])
        asked_for = image_slices.assign_columns(dataset, self.slices, "block.error_bias.slices")
        kinds = image_slices.assign_slices(dataset)
        kinds = kinds.join(asked_for.drop(columns=[name for name in asked_for if name in kinds]))
        kinds = kinds.iloc[rows].reset_index(drop=True)
        parts = list(_cut_slices(predictions, kinds))
        table, floor = self._build_slices_table(predictions, parts)
        result = Result("error_bias", dataset.name, len(rows), predictions.classes)
        result.metrics = {
            "worst_slice": self._find_worst(table, floor),
            "unbias": self._compute_unbias(ood, len(predictions.classes), why),
            **self._compute_confidence(predictions),
        }
        gaps = _tabulate_gaps(self, predictions, parts, self.minimum)
        result.metrics |= self._list_gaps(gaps)
        images = tabulate_predictions(predictions).drop(columns="source")
        result.tables = {
            "slices": table,
            "gaps": gaps,
            "confusion_by_slice": _tabulate_confusion(predictions, parts),
            "images": images.join(kinds.drop(columns=[name for name in kinds if name in images])),
            "ood_predictions": pd.DataFrame(columns=_OOD_COLUMNS),
        }
        if ood:
            seen = [tabulate_predictions(further).assign(set=name)[_OOD_COLUMNS] for name, further in ood.items()]
            result.tables["ood_predictions"] = pd.concat(seen, ignore_index=True)
        result.warnings = unlabelled + _list_warnings(result.metrics, table)
        return result

    def _list_gaps(self, gaps: pd.DataFrame) -> dict[str, Metric]:
        """Return the gap of each column that was asked for, of all images and by true class."""
        metrics = {}
        for by in self.slices:
            rows = gaps[gaps["by"] == by].to_dict("records")
            for row in rows:
                metrics["/".join(filter(None, ("gap", by, row["target"])))] = intervals.make_gap_metric(row)
            if not rows:
                metrics[f"gap/{by}"] = Metric(None, 0, higher_is_better=False, reason=Reason("no_gap", n=self.minimum))
        return metrics

    def _compute_unbias(self, ood: Mapping[str, Predictions], classes: int, why: Reason) -> Metric:
        if not ood:
            return Metric(None, 0, reason=why)
        chosen = np.eye(classes)[np.concatenate([predictions.predicted for predictions in ood.values()])]
        groups = np.concatenate([predictions.groups for predictions in ood.values()])
        statistic = stats.build_mean_statistic(chosen).then(lambda shares: 1 - shares.max(axis=1, keepdims=True))
        about = self, ["unbias"], statistic, groups
        floors = {"unbias": 1 - 1 / classes}
        return intervals.bootstrap_metrics(*about, floors=floors, bounds=intervals.PROPORTION)["unbias"]

    def _compute_confidence(self, predictions: Predictions) -> dict[str, Metric]:
        sure, right = predictions.confidence, predictions.correct
        parts = np.column_stack([np.ones(len(sure)), right, ~right])

        def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            mean, spread = stats.weighted_moments(weights, sure, parts)
            return np.column_stack([mean[:, :1], spread[:, :1], mean[:, 1:]])

        floors = dict.fromkeys(("mean_confidence_correct", "mean_confidence_incorrect"), float(sure.mean()))
        names, about = list(_CONFIDENCE_METRICS), (_CONFIDENCE_METRICS, floors, Reason("no_such_predictions"))
        return intervals.bootstrap_metrics(self, names, statistic, predictions.units, *about, intervals.PROPORTION)

    def _build_slices_table(self, predictions: Predictions, parts: list[Slice]) -> tuple[pd.DataFrame, float]:
        """Return the table of slices, the weakest first, and the accuracy expected by chance of the weakest."""
        table = pd.DataFrame([self._build_row(predictions, part) for part in parts], columns=_COLUMNS)
        tested = np.flatnonzero((table["n"] >= self.minimum) & table["rest"].notna())
        floor = np.nan
        if len(tested):
            level = 1 - (1 - self.level) / len(tested)
            about = predictions.correct, predictions.targets, predictions.group_codes
            members = np.stack([parts[row].images for row in tested], axis=1)
            accuracies = chance.slice_accuracies(*about, members, self.resamples, self.seed)
            table.loc[tested, ["p", "p_adjusted"]] = np.column_stack(chance.max_t_p_values(accuracies))
            table.loc[tested, ["low_joint", "high_joint"]] = [
                stats.proportion_interval(in_slice.correct, in_slice.group_codes, self.resamples, level, self.seed)[:2]
                for in_slice in (predictions.take(parts[row].images) for row in tested)
            ]
            floor = float(accuracies.drawn.min(axis=1).mean())
        table["significant"] = table["p_adjusted"] < 1 - self.level
        return table.sort_values("accuracy", kind="stable", ignore_index=True), floor

    def _build_row(self, predictions: Predictions, part: Slice) -> dict[str, object]:
        in_slice = predictions.take(part.images)
        share = intervals.compute_proportion(self, in_slice.correct, in_slice.units.these)
        wrong = in_slice.predicted[~in_slice.correct]
        return {
            **dict(zip(("by", "slice", "target"), part, strict=False)),
            "n": len(in_slice),
            "groups": share.units,
            **make_columns("accuracy", share),
            "rest": _compute_rest_accuracy(predictions, part),
            "mean_confidence": in_slice.confidence.mean(),
            "most_common_error": in_slice.classes[np.bincount(wrong).argmax()] if len(wrong) else "",
        }

    def _find_worst(self, table: pd.DataFrame, floor: float) -> Metric:
        tested = table[table["p"].notna()]
        if tested.empty:
            return Metric(None, 0, reason=Reason("no_comparable_slice", n=self.minimum))
        # if all intervals cover jointly, the lowest accuracy lies between the lowest of their ends
        value, low, high = tested[["accuracy", "low_joint", "high_joint"]].min().tolist()
        groups = tested["groups"].tolist()[0]
        return Metric(value, groups, low, high, "Bonferroni by group", floor=floor)


def _cut_slices(predictions: Predictions, kinds: pd.DataFrame) -> Iterator[Slice]:
    """Yield the slices of each column: one for each true class, and the whole slice if it holds several."""
    for by in kinds:
        values = kinds[by].to_numpy(str)
        for name in sorted(set(values) - {""}):
            inside = values == name
            labels = np.unique(predictions.targets[inside])
            if len(labels) > 1:
                yield Slice(str(by), name, "", inside, ~inside)
            for index in labels:
                of_class = predictions.targets == index
                yield Slice(str(by), name, predictions.classes[index], inside & of_class, ~inside & of_class)


def _compute_rest_accuracy(predictions: Predictions, part: Slice) -> float:
    """Compute the accuracy of the other images at the class mix of the slice; NaN if one of its classes has none."""
    classes = len(predictions.classes)
    mix = np.bincount(predictions.targets[part.images], minlength=classes)
    others = predictions.take(part.others)
    recall = classification.recall(classification.confusion_matrix(others.targets, others.predicted, classes))
    return float(recall[mix > 0] @ mix[mix > 0] / mix.sum())


def _tabulate_gaps(
    block: intervals.IntervalOptions, predictions: Predictions, parts: list[Slice], minimum: int
) -> pd.DataFrame:
    """Tabulate, by column and true class, the largest difference of accuracy between slices of `minimum` images."""
    rows, correct = [], predictions.correct[:, None]
    for by, target in dict.fromkeys((part.by, part.target) for part in parts):
        compared = [part for part in parts if (part.by, part.target) == (by, target)]
        hits = np.where(np.stack([part.images for part in compared], axis=1), correct, np.nan)
        gap = intervals.find_gap(block, [part.name for part in compared], hits, predictions.group_codes, minimum)
        rows += [{"by": by, "target": target, **gap}] if gap else []
    return pd.DataFrame(rows, columns=["by", "target", *intervals.GAP_COLUMNS])


def _tabulate_confusion(predictions: Predictions, parts: list[Slice]) -> pd.DataFrame:
    """Count the predictions for each slice by true class; rows with `by` "class" count all images."""
    names, rows = predictions.classes, []
    whole = [("class", name, name, predictions.targets == index) for index, name in enumerate(names)]
    for *about, images in [*whole, *(part[:4] for part in parts if part.target)]:
        if images.any():
            counts = np.bincount(predictions.predicted[images], minlength=len(names))
            rows.append((*about, int(counts.sum()), *counts))
    return pd.DataFrame(rows, columns=["by", "slice", "target", "n", *(f"predicted_{name}" for name in names)])


def _list_warnings(metrics: Mapping[str, Metric], table: pd.DataFrame) -> list[Reason]:
    """Return what qualifies unbias, and the weakest slice only if some slice differs significantly."""
    unbias, worst = metrics["unbias"], metrics["worst_slice"]
    reasons = [] if unbias.value is None else [Reason("unbias_alone", value=unbias.value, chance=unbias.floor)]
    if table["significant"].any():
        tested = table[table["p"].notna()]
        row = tested.iloc[0]
        code = "slice_of_class" if row["target"] else "slice"
        name = Reason(code, by=Reason(row["by"]), name=row["slice"], target=row["target"])
        reasons.append(Reason("weakest", n=len(tested), name=name, accuracy=worst.value, floor=worst.floor))
        reasons.append(Reason("differing", found=table["significant"].sum(), n=len(tested)))
    return reasons
