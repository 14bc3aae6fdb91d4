"""transformers: the effect of attention, sharpness-aware minimisation and pretraining under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import align_predictions, group_by_recipe, metric_with_interval, warn_unlabelled
from avatar_bench.evaluation.blocks.transformers import figures
from avatar_bench.evaluation.blocks.transformers import study_tables as tables
from avatar_bench.evaluation.blocks.transformers import study_warnings as warnings
from avatar_bench.evaluation.model_traits import find_crossed_pairs, find_pairs, read_traits, tabulate_protocol
from avatar_bench.evaluation.seeds import Recipes, warn_about_seeds
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class Transformers(recipe_pairs.PairwiseBlock):
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
        drawn = recipes.draw(self)
        measured = tables.compute_metrics(self, recipes, found, own, drawn)
        saved, missing = tables.read_saved_metrics(recipes.members, runs, datasets[0].name)
        by_recipe = {name: measured[name] | saved[name] for name in recipes.names}
        result = Result("transformers", datasets[0].name, len(found[0]), found[0].classes)
        table = tables.build_recipes_table(recipes, own, by_recipe)
        found_pairs = find_pairs(own)
        compared = tables.build_pairs_table(recipes, own, found_pairs, drawn, self, self.power, self.alpha)
        interactions = tables.build_interactions_table(recipes, find_crossed_pairs(found_pairs), drawn, self.level)
        result.tables = {
            "recipes": table,
            "pairs": compared,
            "interactions": interactions,
            "protocol": tabulate_protocol(recipes.names, own),
            "missing": missing,
            "history": tables.read_history(),
            "study": tables.build_study_table(table),
        }
        result.metrics = _build_metrics(by_recipe, compared, interactions, recipes)
        result.figures = {
            "accuracy": figures.draw_accuracy(table),
            "history": figures.draw_history(result.tables["history"]),
        }
        if table["train_seconds"].notna().any():
            result.figures["cost"] = figures.draw_cost(table)
        if result.tables["study"]["recipe"].notna().any():
            result.figures["study"] = figures.draw_study(result.tables["study"])
        if len(compared):
            result.figures["differences"] = figures.draw_differences(compared, interactions, table)
        result.warnings = [
            *warn_unlabelled(len(datasets[0]) - len(found[0]), len(datasets[0])),
            *warn_about_seeds(recipes.seeds_by_recipe),
            *warnings.warn_about_protocol(result.tables["protocol"], own),
            *warnings.warn_about_families(recipes.names, own, found_pairs),
            *warnings.warn_about_pairs(compared),
            *warnings.warn_about_interactions(interactions),
        ]
        return result


def _build_metrics(
    figures_of: dict[str, dict[str, Metric]], compared: pd.DataFrame, interactions: pd.DataFrame, recipes: Recipes
) -> dict[str, Metric]:
    found = {f"{figure}/{name}": metric for name, own in figures_of.items() for figure, metric in own.items()}
    found["significant_pairs"] = Metric(float(compared["significant"].sum()), len(compared), higher_is_better=None)
    for _, row in compared.iterrows():
        found[f"difference/{row['a']} minus {row['b']}"] = _build_difference(row, recipes.units)
    for _, row in interactions.iterrows():
        found[f"interaction/{row['a_sam']} minus {row['b_sam']}"] = _build_difference(row, recipes.units)
    return found


def _build_difference(row: pd.Series, units: int) -> Metric:
    return metric_with_interval(
        row["difference"], row["low"], row["high"], units, "paired bootstrap by group", better=None
    )
