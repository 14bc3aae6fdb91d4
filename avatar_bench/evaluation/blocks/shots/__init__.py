"""shots: accuracy as a function of the number of training images per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.errors import BlockError
from avatar_bench.evaluation import seeds
from avatar_bench.evaluation.block import align_predictions, warn_unlabelled
from avatar_bench.evaluation.intervals import DIFFERENCE, IntervalOptions, metric_with_interval
from avatar_bench.metrics import classification
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import INFERENCE_COLUMNS, Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


Points = dict[tuple[str, int], list[int]]  # runs of each recipe and number of training images per class


@dataclass(kw_only=True)
class Shots(IntervalOptions):
    """Comparison of runs that differ in `mode.shots`, each number drawn and trained with one or several seeds."""

    version: ClassVar[int] = 3

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the learning curve of each recipe; runs trained on all images are left out."""
        places = [index for index, run in enumerate(runs) if _read_shots(run)]
        numbers = {_read_shots(runs[index]) for index in places}
        if len(numbers) < 2:
            raise BlockError(
                f"A learning curve needs runs with at least two numbers of shots; these have {len(numbers)}.",
                "Train them with: avatar-bench train sweep=shots",
            )
        used, sets = [runs[index] for index in places], [datasets[index] for index in places]
        predictions = align_predictions(used, sets)
        points: Points = {}
        for recipe, indices in seeds.group_across_options(used, "mode.shots").items():
            for index in sorted(indices, key=lambda index: _read_shots(used[index])):
                points.setdefault((recipe, _read_shots(used[index])), []).append(index)
        members = {f"{recipe}/{shots}": indices for (recipe, shots), indices in points.items()}
        recipes = seeds.Recipes.of(members, used, predictions)
        f1 = seeds.build_statistic_of_runs(predictions, classification.macro_f1)
        drawn = {"accuracy": recipes.draw(self), "macro_f1": recipes.draw(self, f1)}
        result = Result("shots", sets[0].name, len(predictions[0]), predictions[0].classes)
        point_of = {index: point for point, indices in points.items() for index in indices}
        of_runs = f1(np.ones((1, len(predictions[0]))))[0]
        rows = [
            (*point_of[k], run.label, run.seed, predictions[k].correct.mean(), of_runs[k]) for k, run in enumerate(used)
        ]
        by_run = pd.DataFrame(rows, columns=["recipe", "shots", "run", "seed", "accuracy", "macro_f1"])
        result.tables["runs"] = by_run
        curve = result.tables["curve"] = self._build_curve(points, recipes, drawn, by_run)
        # the expected accuracy of a uniform guess, and the macro-F1 of its expected confusion matrix
        classes, mix = result.classes, np.unique(predictions[0].targets, return_counts=True)[1] / result.n
        guessing = 1 / len(classes), float(np.mean(2 * mix / (len(classes) * mix + 1)))
        result.metrics = _build_metrics(curve, guessing, recipes)
        result.metrics |= self._compute_gains(curve, drawn["accuracy"], recipes)
        # a row for each run, in the order of the table of runs, a column for each image
        answers = {
            "predicted": np.stack([of_run.predicted for of_run in predictions]),
            "target": predictions[0].targets,
        }
        result.arrays["answers"] = answers | {"path": predictions[0].paths, "group": predictions[0].groups}
        result.warnings = warn_unlabelled(len(sets[0]) - result.n, len(sets[0]))
        result.warnings += seeds.warn_about_seeds(recipes.seeds_by_recipe)
        if left := len(runs) - len(places):
            result.warnings.append(Reason("no_shots", n=left, all=len(runs)))
        return result

    def _build_curve(
        self, points: Points, recipes: seeds.Recipes, drawn: Mapping[str, Floats], by_run: pd.DataFrame
    ) -> pd.DataFrame:
        accuracies = recipes.accuracies(self, drawn["accuracy"]).values()
        rows = []
        for (point, runs), accuracy, f1s in zip(points.items(), accuracies, drawn["macro_f1"].T, strict=True):
            part = by_run.iloc[list(runs)]
            low, high = recipes.find_ends(part["macro_f1"].mean(), f1s, self.level)
            sizes = (len(runs), recipes.right.shape[1], *accuracy.inference.values())
            values = (accuracy.value, accuracy.low, accuracy.high, accuracy.interval)
            rows.append((*point, *sizes, *values, part["macro_f1"].mean(), low, high, part["accuracy"].std(ddof=1)))
        columns = ["recipe", "shots", "seeds", "n", *INFERENCE_COLUMNS, "accuracy", "low", "high", "interval"]
        columns += ["macro_f1", "macro_f1_low", "macro_f1_high", "spread_over_seeds"]
        return pd.DataFrame(rows, columns=columns)

    def _compute_gains(self, curve: pd.DataFrame, drawn: Floats, recipes: seeds.Recipes) -> dict[str, Metric]:
        """Compute the gain in accuracy per doubling of the images for each recipe with two numbers or more."""
        gains = {}
        for recipe, rows in curve.groupby("recipe", sort=False).indices.items():
            if len(rows) > 1:
                slope = seeds.weigh_doublings(curve["shots"].to_numpy()[rows])
                name = "gain_per_doubling" if _has_one_recipe(curve) else f"gain_per_doubling/{recipe}"
                value, n = float(curve["accuracy"].to_numpy()[rows] @ slope), int(curve["n"].iloc[0])
                ends = recipes.find_ends(value, drawn[:, rows] @ slope, self.level, DIFFERENCE)
                method = f"bootstrap by seed and {recipes.unit}"
                gains[name] = recipes.state(metric_with_interval(value, *ends, n, method))
        return gains


def _read_shots(run: Run) -> int:
    return int((run.config.get("mode") or {}).get("shots") or 0)


def _build_metrics(curve: pd.DataFrame, guessing: tuple[float, float], recipes: seeds.Recipes) -> dict[str, Metric]:
    metrics = {}
    for __, row in curve.iterrows():
        name = str(row["shots"]) if _has_one_recipe(curve) else f"{row['recipe']}/{row['shots']}"
        several = row["seeds"] > 1
        method = f"bootstrap by {'seed and ' * several}{recipes.unit}"
        for kind, before, how, floor in (
            ("accuracy", "", row["interval"], guessing[0]),
            ("macro_f1", "macro_f1_", method, guessing[1]),
        ):
            value, low, high = row[[kind, f"{before}low", f"{before}high"]].astype(float)
            metrics[f"{kind}/{name}"] = recipes.state(
                metric_with_interval(value, low, high, row["n"], how, floor=floor)
            )
        spread, why = (row["spread_over_seeds"], None) if several else (None, Reason("trained_with_one_seed"))
        metrics[f"spread_over_seeds/{name}"] = Metric(spread, row["seeds"], higher_is_better=False, reason=why)
    return metrics


def _has_one_recipe(curve: pd.DataFrame) -> bool:
    return curve["recipe"].nunique() == 1
