"""leave_one_source_out: recall on sources that were held out of training in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.config.options import option
from avatar_bench.data.splits import HOLD_OUT_UNITS, find_units
from avatar_bench.errors import BlockError, suggest_names
from avatar_bench.evaluation.blocks.leave_one_source_out import held_out_sources as sources
from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_promises import tabulate_promises
from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_sources import Cell, Cells
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.evaluation.seeds import Recipes, warn_about_seeds
from avatar_bench.metrics.stats import Floats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

FRACTIONS: dict[str, Any] = {
    "check": lambda values: all(0 < value < 1 for value in values),
    "expected": "numbers above 0 and below 1",
}


@dataclass(kw_only=True)
class LeaveOneSourceOut(IntervalOptions):
    """Comparison of recipes by runs that each held out a source or generator and are evaluated on it alone."""

    version: ClassVar[int] = 5

    minimum: int = option(
        20, help="images per source; smaller sources are listed, but not in mean and worst", range=(1, None)
    )
    base: str = option("", help="recipe over which gains are computed, or its last words; empty: the first")
    targets: list[float] = option(
        [0.1, 0.2], help="target errors among answered images, at which promises are put to the test", **FRACTIONS
    )
    betas: list[float] = option(
        [0.1, 0.2], help="fractions of new sources that a promise lets exceed a target error", **FRACTIONS
    )

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the recall on each source of the runs trained without it, and compare the recipes over sources."""
        splits = [sources.read_split_options(run) for run in runs]
        kept = [index for index, split in enumerate(splits) if split.get("by") in HOLD_OUT_UNITS]
        if not kept:
            raise BlockError(
                f"None of the {len(runs)} runs held out a source or generator.",
                "Train such runs with: avatar-bench train sweep=leave_one_source_out",
            )
        used, sets = [runs[index] for index in kept], [datasets[index] for index in kept]
        cells = sources.group_cells(used, sets)
        if not cells:
            raise BlockError(f"{sets[0].name} has no image of the held-out sources: evaluate the runs on split=test.")
        classes = used[0].classes
        recipes = {
            cell: Recipes.of({cell.recipe: range(len(members))}, *zip(*members, strict=True))
            for cell, members in cells.items()
        }
        drawn = {cell: recipe.draw(self) for cell, recipe in recipes.items()}
        matrix = self._build_matrix(cells, recipes, drawn, classes)
        unit_of = dict(pair for index in kept for pair in find_units(splits[index].get("units") or {}).items())
        matrix.insert(3, "unit", matrix["source"].replace(unit_of))
        n = int(matrix.drop_duplicates(["source", "target"])["n"].sum())
        result = Result("leave_one_source_out", sets[0].name, n, classes)
        base = self._choose_base(list(dict.fromkeys(matrix["recipe"])))
        summary = sources.build_summary(self, matrix, cells, drawn, used, base)
        result.tables = {"matrix": matrix, "summary": summary, "images": sources.build_images_table(cells)}
        result.tables["promises"] = tabulate_promises(cells, unit_of, self.targets, self.betas, self.level)
        result.metrics = self._build_metrics(matrix, summary, base, 1 / len(classes))
        curve, gains = sources.build_curve(self, matrix, drawn, used)
        if gains:
            result.tables["curve"] = curve
        for name, gain in gains.items():
            key = "gain_per_doubling" if len(gains) == 1 else f"gain_per_doubling/{name}"
            result.metrics[key] = metric_with_interval(*gain)
        skipped = len(runs) - len(kept)
        result.warnings = [Reason("runs_without_held_out", n=skipped, all=len(runs))] if skipped else []
        result.warnings += self._list_warnings(matrix, cells)
        return result

    def _choose_base(self, recipes: Sequence[str]) -> str:
        if not self.base:
            return recipes[0]
        bases = [name for name in recipes if name == self.base] or [
            name for name in recipes if name.endswith(self.base)
        ]
        if len(bases) != 1:
            fault = "several recipes end like this." if bases else f"no such recipe{suggest_names(self.base, recipes)}"
            raise BlockError(
                f"block.leave_one_source_out.base={self.base}: {fault}",
                f"There are: {', '.join(recipes)}.",
            )
        return bases[0]

    def _build_matrix(
        self, cells: Cells, recipes: Mapping[Cell, Recipes], drawn: Mapping[Cell, Floats], classes: Sequence[str]
    ) -> pd.DataFrame:
        """Return recall and the proportion of each predicted class for each recipe and source."""
        rows = []
        tests = Counter(cell.recipe for cell, recipe in recipes.items() if recipe.right.shape[1] >= self.minimum)
        for cell, recipe in recipes.items():
            metric = recipe.accuracies(self, drawn[cell])[cell.recipe]
            seeds, n = recipe.right.shape
            joint: tuple[float | None, float | None] = np.nan, np.nan
            if n >= self.minimum:
                strict = replace(self, level=1 - (1 - self.level) / tests[cell.recipe])
                strictly = recipe.accuracies(strict, drawn[cell])[cell.recipe]
                joint = strictly.low, strictly.high
            ends = metric.value, metric.low, metric.high, *joint, metric.interval
            taken = [np.bincount(predictions.predicted, minlength=len(classes)) / n for __, predictions in cells[cell]]
            rows.append((*cell, seeds, n, recipe.units.usable.count, *ends, n >= self.minimum, *np.mean(taken, axis=0)))
        columns = [*Cell._fields, "seeds", "n", "groups", "recall", "low", "high"]
        columns += ["low_joint", "high_joint", "interval", "counted"]
        return pd.DataFrame(rows, columns=[*columns, *(f"predicted_as_{name}" for name in classes)])

    def _build_metrics(self, matrix: pd.DataFrame, summary: pd.DataFrame, base: str, floor: float) -> dict[str, Metric]:
        """Return the metrics of each recipe; names end with the recipe if there are several."""
        metrics, few = {}, Reason("no_large_source", n=self.minimum)
        unknown = {"in_domain": Reason("no_val_of_known_sources"), "train_seconds": Reason("not_recorded")}
        endings = {recipe: f"/{recipe}" if len(summary) > 1 else "" for recipe in summary["recipe"]}
        for __, row in summary.iterrows():
            shown: dict[str, tuple[int, str, float | None, Reason]] = {
                "mean": (row["mean_n"], row["mean_interval"], floor, few),
                "worst": (row["worst_groups"], "Bonferroni by group", None, few),
            }
            if row["recipe"] != base:
                shown["gain"] = (row["gain_n"], row["gain_interval"], None, Reason("no_common_source"))
            for name, (n, how, least, reason) in shown.items():
                value, low, high = row[[name, f"{name}_low", f"{name}_high"]].astype(float)
                metrics[name + endings[row["recipe"]]] = metric_with_interval(
                    value, low, high, int(n), how, floor=least, reason=reason
                )
            for name, better in (("in_domain", True), ("train_seconds", False)):
                value, n = float(row[name]), int(row["sources"])
                none = Metric(None, n, higher_is_better=better, reason=unknown[name])
                metrics[name + endings[row["recipe"]]] = (
                    none if np.isnan(value) else replace(none, value=value, reason=None)
                )
        twice = matrix.duplicated(["recipe", "source"], keep=False)
        for (__, row), is_twice in zip(matrix.iterrows(), twice, strict=True):
            source = f"{row['source']} {row['target']}" if is_twice else row["source"]
            value, low, high = row[["recall", "low", "high"]].astype(float)
            metric = metric_with_interval(value, low, high, int(row["groups"]), row["interval"])
            metrics[f"recall/{source}{endings[row['recipe']]}"] = metric
        counted = float(matrix.loc[matrix["counted"], "source"].nunique())
        return metrics | {"sources": Metric(counted, len(matrix), higher_is_better=None)}

    def _list_warnings(self, matrix: pd.DataFrame, cells: Cells) -> list[Reason]:
        small = sorted(set(matrix.loc[~matrix["counted"], "source"]))
        reasons = [Reason("small_sources", n=self.minimum, names=small)] if small else []
        units = matrix[matrix["counted"]].groupby(["recipe", "target"])["unit"].nunique()
        if single := sorted(set(units[units == 1].index.get_level_values("target"))):
            reasons.append(Reason("class_of_one_source", names=single))
        for recipe, of_recipe in matrix.groupby("recipe", sort=False):
            if missing := sorted(set(matrix["source"]) - set(of_recipe["source"])):
                reasons.append(Reason("recipe_lacks_sources", recipe=recipe, names=missing))
        seeds = {cell.recipe: [run.seed for run, __ in members] for cell, members in cells.items()}
        return reasons + warn_about_seeds(seeds)
