"""prior_shift: accuracy of a run under class proportions other than those of the data set, corrected or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.config.options import option
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import make_columns, read_labelled, tabulate_predictions
from avatar_bench.evaluation.intervals import PROPORTION, IntervalOptions, bootstrap_metrics
from avatar_bench.metrics import prior_shift
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


_DEFAULT_MIXES: dict[str, dict[str, float] | None] = {
    "50-25-25": {"drawing": 0.5, "real": 0.25, "generated": 0.25},
    "70-15-15": {"drawing": 0.7, "real": 0.15, "generated": 0.15},
    "80-10-10": {"drawing": 0.8, "real": 0.1, "generated": 0.1},
}


def _is_mix(mix: dict[str, float] | None) -> bool:
    shares = [1.0] if mix is None else mix.values()
    return all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)


@dataclass(kw_only=True)
class PriorShift(IntervalOptions):
    """Accuracy of a run under other class proportions, simulated by weighting its images."""

    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    mixes: dict[str, dict[str, float] | None] = option(
        _DEFAULT_MIXES,
        help="{name: {class: proportion}}; null removes a mix",
        check=lambda mixes: all(map(_is_mix, mixes.values())),
        expected="for each name null, or proportions from 0 to 1 with a sum of 1",
    )
    shares: list[float] = option(
        [0.1, 0.3, 0.5, 0.7, 0.9],
        help="proportion of each class in turn, the others in equal parts",
        check=lambda shares: all(0 < share < 1 for share in shares),
        expected="numbers above 0 and below 1",
    )
    training: dict[str, float] = option(
        {},
        help="{class: proportion} in training; {}: from the run",
        check=lambda shares: not shares or (_is_mix(shares) and min(shares.values()) > 0),
        expected="a proportion above 0 for each class with a sum of 1",
    )

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute accuracy and macro-F1 under each mix, uncorrected and corrected by true or estimated proportions."""
        __, predictions, unlabelled = read_labelled(run, dataset)
        if absent := sorted(set(predictions.classes) - {predictions.classes[label] for label in predictions.targets}):
            raise BlockError(
                f"{dataset.name} has no image of class {absent[0]!r}, so it cannot be weighted to include that class."
            )
        mixes = self._select_mixes(run)
        training, origin = self.read_training_shares(run)
        by_mix = {name: self._compute_metrics(predictions, training, prior) for name, prior in mixes.items()}
        varied = []
        for (index, frequent), share in product(enumerate(run.classes), self.shares):
            prior = prior_shift.make_prior(index, share, len(run.classes))
            metrics = self._compute_metrics(predictions, training, prior)
            varied.append(_build_row(f"{frequent} {share:g}", frequent, prior, metrics, run.classes))
        result = Result("prior_shift", dataset.name, len(predictions), run.classes)
        keys = product(prior_shift.PRIOR_SHIFT_COLUMNS, mixes)
        result.metrics = {f"{column}/{name}": by_mix[name][column] for column, name in keys}
        rows = [_build_row(name, "", mixes[name], by_mix[name], run.classes) for name in mixes]
        priors = []
        for name, prior in mixes.items():
            shares = pd.DataFrame({"mix": name, "class": run.classes, "share": prior, "training": training})
            estimated = [make_columns("estimated", by_mix[name][f"estimate/{label}"]) for label in run.classes]
            priors.append(shares.join(pd.DataFrame(estimated)))
        images = tabulate_predictions(predictions, with_probabilities=True)
        result.tables = {
            "mixes": self._sort_share_columns(pd.DataFrame(rows + varied)),
            "priors": pd.concat(priors),
            "predictions": images.drop(columns=["prediction", "confidence", "correct", "source"]),
        }
        result.provenance["training_shares"] = dict(zip(run.classes, training.tolist(), strict=True))
        result.provenance["training_shares_from"] = origin
        result.warnings = unlabelled
        left = [name for name, mix in self.mixes.items() if mix is not None and name not in mixes]
        result.warnings += [Reason("mixes_of_other_classes", names=left)] if left else []
        return result

    def _select_mixes(self, run: Run) -> dict[str, Floats]:
        """Return the proportions (C,) of each mix whose classes the run knows; raise BlockError if there is none."""
        classes = run.classes
        named = {name: mix for name, mix in self.mixes.items() if mix is not None}
        if run.view.classes:
            named = {
                name: mix if set(mix) <= set(classes) else run.view.merge_shares(mix) for name, mix in named.items()
            }
        fitting = {
            name: np.array([mix.get(label, 0.0) for label in classes])
            for name, mix in named.items()
            if mix and set(mix) <= set(classes)
        }
        if not fitting:
            raise BlockError(
                f"prior_shift: no mix fits the classes of this run: {', '.join(classes)}.",
                "Define one: 'block.prior_shift.mixes={NAME: {CLASS: PROPORTION, ...}}'",
            )
        return fitting

    def _sort_share_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """Sort the columns of proportions by the order of the classes in the mixes: drawing, real, generated."""
        named = [f"share_{name}" for mix in self.mixes.values() for name in mix or ()]
        shares = [name for name in map(str, table) if name.startswith("share_")]
        ordered = ["mix", "frequent", *sorted(shares, key=[*named, *shares].index)]
        return table[[*ordered, *(name for name in table if name not in ordered)]]

    def read_training_shares(self, run: Run) -> tuple[Floats, str]:
        """Return the class proportions (C,) that training used, and where they were read."""
        if self.training:
            if set(self.training) != set(run.classes):
                names = ", ".join(run.classes)
                raise BlockError(f"block.prior_shift.training: expected exactly one proportion for each of {names}.")
            return np.array([self.training[name] for name in run.classes]), "option"
        if run.record.balance in ("sampler", "source", "loss"):  # each weights all classes equally
            equal = {label: 1.0 for merged in run.merged_classes.values() for label in merged}
            return _sum_by_class(run, equal), "balance"
        counts = run.record.split.get("train_counts")
        if counts:
            return _sum_by_class(run, counts), "train split"
        known = np.bincount(run.training().targets, None, len(run.classes))
        return np.divide(known, np.sum(known)), "train split"

    def _compute_metrics(self, predictions: Predictions, training: Floats, prior: Floats) -> dict[str, Metric]:
        """Compute each of COLUMNS, and the estimated proportion of each class as `estimate/<class>`."""
        mix = prior_shift.PriorShiftStatistic(
            predictions.logits.astype(np.float64) / predictions.temperature, predictions.targets, training, prior
        )
        names = [*prior_shift.PRIOR_SHIFT_COLUMNS, *(f"estimate/{name}" for name in predictions.classes)]
        floors = {name: prior_shift.guessing_floor(name, training, prior) for name in prior_shift.PRIOR_SHIFT_COLUMNS}
        better = dict.fromkeys(names, True) | {"prior_error": False}
        return bootstrap_metrics(self, names, mix, predictions.units, better, floors, bounds=PROPORTION)


def _sum_by_class(run: Run, values: Mapping[str, float]) -> Floats:
    """Return the proportion (C,) of each class of the run, from the values of the network's classes."""
    sums = np.array([sum(values[key] for key in merged) for merged in run.merged_classes.values()], dtype=np.float64)
    return np.asarray(sums / sums.sum())


def _build_row(
    mix: str, frequent: str, prior: Floats, metrics: dict[str, Metric], classes: tuple[str, ...]
) -> dict[str, Any]:
    shares = {f"share_{name}": float(share) for name, share in zip(classes, prior, strict=True)}
    row: dict[str, Any] = {"mix": mix, "frequent": frequent, **shares}
    for column in prior_shift.PRIOR_SHIFT_COLUMNS:
        name = column.replace("/", "_")
        row |= make_columns(name, metrics[column], f"{name}_")
    for figure in ("accuracy", "macro_f1"):
        row[f"majority_{figure}"] = prior_shift.guessing_floor(f"corrected/{figure}", prior, prior)
    return row
