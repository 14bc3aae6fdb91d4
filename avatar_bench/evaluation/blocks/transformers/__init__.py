"""transformers: what attention, sharpness-aware minimisation and pretraining are worth under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import between, left_out, recipes, together
from avatar_bench.evaluation.blocks.transformers import figures
from avatar_bench.evaluation.blocks.transformers import study_tables as tables
from avatar_bench.evaluation.blocks.transformers import study_warnings as warnings
from avatar_bench.evaluation.model_traits import crossed, pairs, protocol, traits
from avatar_bench.evaluation.seeds import Recipes, about_seeds
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class Transformers(recipe_pairs.PairingBlock):
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
        found = together(runs, datasets)
        judged = Recipes.of(recipes(runs), runs, found)
        own = [traits([runs[place] for place in members]) for members in judged.members.values()]
        drawn = judged.draw(self)
        measured = tables.figures_of(self, judged, found, own, drawn)
        saved, missing = tables.saved_figures(judged.members, runs, datasets[0].name)
        by_recipe = {name: measured[name] | saved[name] for name in judged.names}
        result = Result("transformers", datasets[0].name, len(found[0]), found[0].classes)
        table = tables.of_recipes(judged, own, by_recipe)
        found_pairs = pairs(own)
        compared = tables.of_pairs(judged, own, found_pairs, drawn, self, self.power, self.alpha)
        interactions = tables.of_interactions(judged, crossed(found_pairs), drawn, self.level)
        result.tables = {
            "recipes": table,
            "pairs": compared,
            "interactions": interactions,
            "protocol": protocol(judged.names, own),
            "missing": missing,
            "history": tables.history(),
            "study": tables.study(table),
        }
        result.metrics = _metrics(by_recipe, compared, interactions, judged)
        result.figures = {"accuracy": figures.accuracy(table), "history": figures.history(result.tables["history"])}
        if table["train_seconds"].notna().any():
            result.figures["cost"] = figures.cost(table)
        if result.tables["study"]["recipe"].notna().any():
            result.figures["study"] = figures.study(result.tables["study"])
        if len(compared):
            result.figures["differences"] = figures.differences(compared, interactions, table)
        result.warnings = [
            *left_out(len(datasets[0]) - len(found[0]), len(datasets[0])),
            *about_seeds(judged.seeds_of),
            *warnings.about_protocol(result.tables["protocol"], own),
            *warnings.about_families(judged.names, own, found_pairs),
            *warnings.about_pairs(compared),
            *warnings.about_interactions(interactions),
        ]
        return result


def _metrics(
    figures_of: dict[str, dict[str, Metric]], compared: pd.DataFrame, interactions: pd.DataFrame, judged: Recipes
) -> dict[str, Metric]:
    found = {f"{figure}/{name}": metric for name, own in figures_of.items() for figure, metric in own.items()}
    found["pairs_told_apart"] = Metric(float(compared["significant"].sum()), len(compared), higher_is_better=None)
    for _, row in compared.iterrows():
        found[f"difference/{row['a']} minus {row['b']}"] = _difference(row, judged.units)
    for _, row in interactions.iterrows():
        found[f"interaction/{row['a_sam']} minus {row['b_sam']}"] = _difference(row, judged.units)
    return found


def _difference(row: pd.Series, units: int) -> Metric:
    return between(row["difference"], row["low"], row["high"], units, "paired bootstrap", better=None)
