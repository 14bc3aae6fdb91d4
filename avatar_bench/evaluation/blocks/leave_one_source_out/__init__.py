"""leave_one_source_out: recall on sources that were held out of training in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.leave_one_source_out import held_out_sources as sources
from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_sources import Cell, Cells
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.evaluation.seeds import warn_about_seeds
from avatar_bench.metrics import paired_tests, stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
_WORST = ["recall", "low", "high", "source", "target", "groups", "interval"]
_NO_WORST = (np.nan, np.nan, np.nan, "", "", 0, "")


@dataclass(kw_only=True)
class LeaveOneSourceOut(IntervalOptions):
    """Comparison of runs that each held out a source or generator and are evaluated on it alone."""

    version: ClassVar[int] = 1

    minimum: int = option(
        20, help="images per source; smaller sources are listed, but not in mean and worst", range=(1, None)
    )

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the recall on each source of the runs trained without it, and the mean and worst by recipe.

        Raise BlockError if no run held out a source, or if the data set holds no image of the held-out sources.
        """
        kept = [place for place, run in enumerate(runs) if sources.read_held_out(run)]
        if not kept:
            raise BlockError(
                f"None of the {len(runs)} runs held out a source or generator.",
                "Train such runs with: avatar-bench train sweep=leave_one_source_out",
            )
        used, sets = [runs[place] for place in kept], [datasets[place] for place in kept]
        cells = sources.group_cells(used, sets)
        if not cells:
            raise BlockError(f"{sets[0].name} has no image of the held-out sources: evaluate the runs on split=test.")
        classes = used[0].classes
        drawn = {cell: sources.build_recipes(cell, members).draw(self) for cell, members in cells.items()}
        matrix = self._build_matrix(cells, drawn, classes)
        n = int(matrix.drop_duplicates(["source", "target"])["n"].sum())
        result = Result("leave_one_source_out", sets[0].name, n, classes)
        summary = self._build_summary(matrix, drawn, sources.average_in_domain_accuracy(used))
        result.tables = {"matrix": matrix, "summary": summary, "images": sources.build_images_table(cells)}
        result.metrics = self._build_metrics(matrix, summary)
        skipped = len(runs) - len(kept)
        result.warnings = [Reason("runs_without_held_out", n=skipped, all=len(runs))] if skipped else []
        result.warnings += self._list_warnings(matrix, cells)
        return result

    def _build_matrix(self, cells: Cells, drawn: Mapping[Cell, Floats], classes: Sequence[str]) -> pd.DataFrame:
        """Return recall and the proportion of each predicted class for each recipe and source."""
        rows = []
        for cell, members in cells.items():
            recipes = sources.build_recipes(cell, members)
            metric = recipes.accuracies(self, drawn[cell])[cell.recipe]
            n = recipes.right.shape[1]
            taken = [np.bincount(one.predicted, minlength=len(classes)) / n for __, one in members]
            ends = (metric.value, metric.low, metric.high, metric.interval)
            rows.append((*cell, len(taken), n, recipes.units, *ends, n >= self.minimum, *np.mean(taken, axis=0)))
        columns = ["recipe", "source", "target", "seeds", "n", "groups", "recall", "low", "high", "interval", "counted"]
        return pd.DataFrame(rows, columns=[*columns, *(f"predicted_as_{name}" for name in classes)])

    def _build_summary(
        self, matrix: pd.DataFrame, drawn: Mapping[Cell, Floats], in_domain: Mapping[str, float]
    ) -> pd.DataFrame:
        """Return mean and worst recall over the counted sources of each recipe, beside its in-domain accuracy."""
        rows = []
        for recipe, own in matrix.groupby("recipe", sort=False):
            counted = own[own["counted"]]
            cells = [Cell(*key) for key in counted[["recipe", "source", "target"]].itertuples(index=False)]
            mean = self._average_recall(counted, np.hstack([drawn[cell] for cell in cells])) if cells else (np.nan,) * 3
            worst = counted.nsmallest(1, ["recall", "low"]).reindex(columns=_WORST).to_numpy(object).tolist()
            rows.append((recipe, len(cells), *mean, *(worst[0] if worst else _NO_WORST), in_domain[str(recipe)]))
        means = ["mean", "mean_low", "mean_high"]
        worsts = ["worst", "worst_low", "worst_high", *(f"worst_{name}" for name in _WORST[3:])]
        return pd.DataFrame(rows, columns=["recipe", "sources", *means, *worsts, "in_domain"])

    def _average_recall(self, counted: pd.DataFrame, drawn: Floats) -> tuple[float, float, float]:
        low, high = stats.percentiles(paired_tests.resample_units(drawn, self.seed), self.level)
        value = float(counted["recall"].mean())
        return (value, float(low), float(high)) if low < high else (value, np.nan, np.nan)

    def _build_metrics(self, matrix: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Metric]:
        found, few = {}, Reason("no_large_source", n=self.minimum)
        for __, row in summary.iterrows():
            how = {"mean": "bootstrap by source and group", "worst": row["worst_interval"]}
            for name, n in (("mean", row["sources"]), ("worst", row["worst_groups"])):
                value, low, high = row[[name, f"{name}_low", f"{name}_high"]].astype(float)
                metric = metric_with_interval(value, low, high, int(n), how[name], reason=few)
                found[f"{name}/{row['recipe']}"] = metric
        n = float(matrix.loc[matrix["counted"], "source"].nunique())
        return found | {"sources": Metric(n, len(matrix), higher_is_better=None)}

    def _list_warnings(self, matrix: pd.DataFrame, cells: Cells) -> list[Reason]:
        small = sorted(set(matrix.loc[~matrix["counted"], "source"]))
        found = [Reason("small_sources", n=self.minimum, names=small)] if small else []
        for recipe, own in matrix.groupby("recipe", sort=False):
            if missing := sorted(set(matrix["source"]) - set(own["source"])):
                found.append(Reason("recipe_lacks_sources", recipe=recipe, names=missing))
        seeds = {cell.recipe: [run.seed for run, __ in members] for cell, members in cells.items()}
        return found + warn_about_seeds(seeds)
