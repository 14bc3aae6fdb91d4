"""transformers: the effect of attention, sharpness-aware minimisation and pretraining under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import align_predictions, group_by_recipe, warn_unlabelled
from avatar_bench.evaluation.blocks.transformers import figures
from avatar_bench.evaluation.blocks.transformers import study_tables as tables
from avatar_bench.evaluation.blocks.transformers import study_warnings as warnings
from avatar_bench.evaluation.intervals import metric_with_interval
from avatar_bench.evaluation.model_traits import find_crossed_pairs, find_pairs, read_traits, tabulate_protocol
from avatar_bench.evaluation.seeds import Recipes, warn_about_seeds
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class Transformers(recipe_pairs.PairwiseOptions):
    """Comparison of recipes by network, optimizer and initial weights, in pairs that differ in exactly one of them.

    Two differ significantly if p, by Holm over all pairs, is below `alpha` and the interval of their difference
    excludes 0. `power` is the probability of detection that `detectable` and `n_required` assume.
    """

    reads_results: ClassVar[bool] = True

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the metrics of each recipe, the pairs and the protocol, and add published accuracies.

        Raise BlockError if there are fewer than two runs, they cannot be aligned, or one has no network; GuardError if
        the class names are in the wrong order.
        """
        found = align_predictions(runs, datasets)
        recipes = Recipes.of(group_by_recipe(runs), runs, found)
        own = [read_traits([runs[place] for place in members]) for members in recipes.members.values()]
        pairs, drawn = find_pairs(own), recipes.draw(self)
        measured = tables.compute_metrics(self, recipes, found, own, drawn)
        saved, missing = tables.read_saved_metrics(recipes.members, runs, datasets[0].name)
        metrics = {name: measured[name] | saved[name] for name in recipes.names}
        table = tables.build_recipes_table(recipes, own, metrics)
        compared = tables.build_pairs_table(recipes, own, pairs, drawn, self)
        interactions = tables.build_interactions_table(recipes, find_crossed_pairs(pairs), drawn, self.level)
        result = Result("transformers", datasets[0].name, len(found[0]), found[0].classes)
        result.metrics = _build_metrics(metrics, compared, interactions, recipes.units)
        result.tables = {
            "recipes": table,
            "pairs": compared,
            "interactions": interactions,
            "protocol": tabulate_protocol(recipes.names, own),
            "missing": missing,
            "history": tables.read_published("history"),
            "study": tables.build_study_table(table),
        }
        result.figures = figures.draw(result.tables)
        result.warnings = [
            *warn_unlabelled(len(datasets[0]) - len(found[0]), len(datasets[0])),
            *warn_about_seeds(recipes.seeds_by_recipe),
            *warnings.warn_about_protocol(result.tables["protocol"], own),
            *warnings.warn_about_families(compared, table),
            *warnings.warn_about_pairs(compared),
            *warnings.warn_about_interactions(interactions),
        ]
        return result


def _build_metrics(
    metrics: Mapping[str, Mapping[str, Metric]], compared: pd.DataFrame, interactions: pd.DataFrame, units: int
) -> dict[str, Metric]:
    found = {f"{metric}/{name}": value for name, own in metrics.items() for metric, value in own.items()}
    found["significant_pairs"] = Metric(float(compared["significant"].sum()), len(compared), higher_is_better=None)
    names = {"difference": (compared, "a", "b"), "interaction": (interactions, "a_sam", "b_sam")}
    for kind, (table, a, b) in names.items():
        for _, row in table.iterrows():
            ends = (row["difference"], row["low"], row["high"])
            metric = metric_with_interval(*ends, units, "paired bootstrap by group", better=None)
            found[f"{kind}/{row[a]} minus {row[b]}"] = metric
    return found
