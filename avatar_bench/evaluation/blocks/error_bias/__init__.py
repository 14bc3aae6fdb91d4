"""error_bias: where a run misclassifies, which classes it predicts instead, and how confident it is in its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

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
from avatar_bench.metrics.paired_tests import holm
from avatar_bench.metrics.units import Units, encode
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

_CONFIDENCE_METRICS: dict[str, bool | None] = dict.fromkeys(("mean_confidence", "std_confidence"))  # higher is better
_CONFIDENCE_METRICS |= {"mean_confidence_correct": True, "mean_confidence_incorrect": False}
_COLUMNS = [
    *(
        "by",
        "slice",
        "target",
        "n",
        "accuracy",
        "low",
        "high",
        "low_joint",
        "high_joint",
        "unit",
        "units",
        "population",
    ),
    *("rest", "permuted", "permuted_units", "p", "p_adjusted", "reason", "mean_confidence", "most_common_error"),
]
_GAP_TESTS = ["floor", "permuted", "p", "p_adjusted", "significant"]
_FEWEST_UNITS = 6  # in the classes of a slice: of fewer, no permutation is unlikely
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
        parts = list(cut_slices(predictions, kinds))
        table, gaps, floor = self.test_slices(predictions, parts)
        result = Result("error_bias", dataset.name, len(rows), predictions.classes)
        result.metrics = {
            "worst_slice": self._find_worst(table, floor),
            "unbias": self._compute_unbias(ood, len(predictions.classes), why),
            **self._compute_confidence(predictions),
        }
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

    def test_slices(self, predictions: Predictions, parts: Sequence[Slice]) -> tuple[pd.DataFrame, pd.DataFrame, float]:
        """Return the tables of slices, the weakest first, and of gaps, and the accuracy by chance of the weakest.

        Sources are permuted, or groups where a source is unknown: a format that only some sources have differs as they
        do. A slice of a single unit, or of classes with fewer than _FEWEST_UNITS, has no p-value.
        """
        units = predictions.units
        if units.sources is None and (predictions.sources != "").all():  # also sources that the run has seen
            units = Units(units.groups, encode(predictions.sources), predictions.targets)
        table = pd.DataFrame([self._build_row(predictions, part, units) for part in parts], columns=_COLUMNS)
        counted = np.flatnonzero(table["n"] >= self.minimum)
        if not len(counted):
            gaps = pd.DataFrame(columns=["by", "target", *intervals.GAP_COLUMNS, *_GAP_TESTS])
            return table.assign(significant=False), gaps, np.nan
        kept = [parts[row] for row in counted.tolist()]
        members = np.stack([part.images for part in kept], axis=1)
        about = predictions.correct, predictions.targets, units.codes, members
        accuracies = chance.slice_accuracies(*about, self.resamples, self.seed)
        gaps = _tabulate_gaps(self, predictions, kept, units, accuracies)
        compared = np.flatnonzero(table["rest"][counted].notna())  # of the counted ones
        floor = float(accuracies.drawn[:, compared].min(axis=1).mean()) if len(compared) else np.nan
        level = 1 - (1 - self.level) / max(1, len(compared))
        joint: Any = [
            stats.proportion_interval(in_slice.correct, in_slice.group_codes, self.resamples, level, self.seed)[:2]
            for in_slice in (predictions.take(kept[column].images) for column in compared.tolist())
        ]
        table.loc[counted[compared], ["low_joint", "high_joint"]] = np.reshape(joint, (-1, 2))
        tested = compared[table["reason"].eq("").to_numpy()[counted[compared]]]
        if len(tested):
            p_values = chance.max_t_p_values(chance.PermutedAccuracies(*(part[..., tested] for part in accuracies)))
            table.loc[counted[tested], ["p", "p_adjusted"]] = np.column_stack(p_values)
        table["significant"] = table["p_adjusted"] < 1 - self.level
        return table.sort_values("accuracy", kind="stable", ignore_index=True), gaps, floor

    def _build_row(self, predictions: Predictions, part: Slice, permuted: Units) -> dict[str, object]:
        in_slice, units = predictions.take(part.images), len(np.unique(permuted.codes[part.images]))
        of_classes = np.isin(predictions.targets, predictions.targets[part.images])
        is_few = units < 2 or len(np.unique(permuted.codes[of_classes])) < _FEWEST_UNITS
        share = intervals.compute_proportion(self, in_slice.correct, in_slice.units.these)
        wrong = in_slice.predicted[~in_slice.correct]
        return {
            **dict(zip(("by", "slice", "target"), part, strict=False)),
            "n": len(in_slice),
            **make_columns("accuracy", share),
            **share.inference,
            "rest": _compute_rest_accuracy(predictions, part),
            "permuted": permuted.name,
            "permuted_units": units,
            "reason": "few_units" if is_few else "",
            "mean_confidence": in_slice.confidence.mean(),
            "most_common_error": in_slice.classes[np.bincount(wrong).argmax()] if len(wrong) else "",
        }

    def _find_worst(self, table: pd.DataFrame, floor: float) -> Metric:
        compared = table[table["low_joint"].notna()]
        if compared.empty:
            return Metric(None, 0, reason=Reason("no_comparable_slice", n=self.minimum))
        # if all intervals cover jointly, the lowest accuracy lies between the lowest of their ends
        value, low, high = compared[["accuracy", "low_joint", "high_joint"]].min().tolist()
        first = compared.iloc[0]
        about = {"floor": floor, "units": int(first["units"]), "population": first["population"]}
        return Metric(value, int(first["n"]), low, high, "Bonferroni by group", **about)


def cut_slices(predictions: Predictions, kinds: pd.DataFrame) -> Iterator[Slice]:
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
    block: ErrorBias,
    predictions: Predictions,
    parts: Sequence[Slice],
    permuted: Units,
    accuracies: chance.PermutedAccuracies,
) -> pd.DataFrame:
    """Tabulate, by column and true class, the largest difference of accuracy between slices, and what chance makes it.

    `parts` are slices of enough images, and `accuracies` theirs under permutations, which have the same units.
    """
    rows, correct = [], predictions.correct[:, None]
    for by, target in dict.fromkeys((part.by, part.target) for part in parts):
        columns = [column for column, part in enumerate(parts) if (part.by, part.target) == (by, target)]
        images = np.stack([parts[column].images for column in columns], axis=1)
        names, hits = [parts[column].name for column in columns], np.where(images, correct, np.nan)
        if gap := intervals.find_gap(block, names, hits, predictions.units, 1):
            drawn, seen = np.ptp(accuracies.drawn[:, columns], axis=1), np.ptp(accuracies.observed[columns])
            is_few = len(np.unique(permuted.codes[images.any(axis=1)])) < _FEWEST_UNITS
            p = np.nan if is_few else ((drawn >= seen - 1e-9).sum() + 1) / (len(drawn) + 1)
            tested = {"floor": drawn.mean(), "permuted": permuted.name, "p": p}
            rows.append({"by": by, "target": target, **gap, **tested})
    table = pd.DataFrame(rows, columns=["by", "target", *intervals.GAP_COLUMNS, *_GAP_TESTS])
    known = table["p"].notna()
    table.loc[known, "p_adjusted"] = holm(table["p"][known].to_numpy(np.float64))
    return table.assign(significant=table["p_adjusted"] < 1 - block.level)


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
        compared, tested = table[table["low_joint"].notna()], int(table["p"].notna().sum())
        row = compared.iloc[0]
        code = "slice_of_class" if row["target"] else "slice"
        name = Reason(code, by=Reason(row["by"]), name=row["slice"], target=row["target"])
        reasons.append(Reason("weakest", n=len(compared), name=name, accuracy=worst.value, floor=worst.floor))
        reasons.append(Reason("differing", found=int(table["significant"].sum()), n=tested))
    return reasons
