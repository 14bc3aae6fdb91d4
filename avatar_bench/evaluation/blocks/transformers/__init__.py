"""transformers: what attention, sharpness-aware minimisation and pretraining are worth under one protocol."""

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
    """Compare recipes that differ in network, optimizer and start, in pairs where they differ in one of these alone.

    Two are told apart where p, by Holm over all pairs, is below `alpha` and the interval of their difference leaves
    out 0. `power` is the chance of that which `detectable` and `n_required` ask for.
    """

    reads_results: ClassVar[bool] = True

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Give a row a recipe, the pairs, what the settings have in common, and published figures of others.

        Raise BlockError where there are fewer than two runs, they cannot be set side by side, or one has no network;
        GuardError where a class order is wrong.
        """
        found = align_predictions(runs, datasets)
        judged = Recipes.of(group_by_recipe(runs), runs, found)
        own = [read_traits([runs[place] for place in members]) for members in judged.members.values()]
        drawn = judged.draw(self)
        measured = tables.compute_metrics(self, judged, found, own, drawn)
        saved, missing = tables.read_saved_metrics(judged.members, runs, datasets[0].name)
        by_recipe = {name: measured[name] | saved[name] for name in judged.names}
        result = Result("transformers", datasets[0].name, len(found[0]), found[0].classes)
        table = tables.build_recipes_table(judged, own, by_recipe)
        found_pairs = find_pairs(own)
        compared = tables.build_pairs_table(judged, own, found_pairs, drawn, self, self.power, self.alpha)
        interactions = tables.build_interactions_table(judged, find_crossed_pairs(found_pairs), drawn, self.level)
        result.tables = {
            "recipes": table,
            "pairs": compared,
            "interactions": interactions,
            "protocol": tabulate_protocol(judged.names, own),
            "missing": missing,
            "history": tables.read_history(),
            "study": tables.build_study_table(table),
        }
        result.metrics = _metrics(by_recipe, compared, interactions, judged)
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
            *warn_about_seeds(judged.seeds_by_recipe),
            *warnings.warn_about_protocol(result.tables["protocol"], own),
            *warnings.warn_about_families(judged.names, own, found_pairs),
            *warnings.warn_about_pairs(compared),
            *warnings.warn_about_interactions(interactions),
        ]
        return result


def _metrics(
    figures_of: dict[str, dict[str, Metric]], compared: pd.DataFrame, interactions: pd.DataFrame, judged: Recipes
) -> dict[str, Metric]:
    found = {f"{figure}/{name}": metric for name, own in figures_of.items() for figure, metric in own.items()}
    found["significant_pairs"] = Metric(float(compared["significant"].sum()), len(compared), higher_is_better=None)
    for _, row in compared.iterrows():
        found[f"difference/{row['a']} minus {row['b']}"] = _difference(row, judged.units)
    for _, row in interactions.iterrows():
        found[f"interaction/{row['a_sam']} minus {row['b_sam']}"] = _difference(row, judged.units)
    return found


def _difference(row: pd.Series, units: int) -> Metric:
    return metric_with_interval(
        row["difference"], row["low"], row["high"], units, "paired bootstrap by group", better=None
    )
