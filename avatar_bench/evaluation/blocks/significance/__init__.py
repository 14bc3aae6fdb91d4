"""significance: which recipes differ significantly on one data set, and which are statistically tied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import align_predictions, group_by_recipe, warn_unlabelled
from avatar_bench.evaluation.intervals import metric_with_interval
from avatar_bench.evaluation.seeds import Recipes, build_statistic_of_runs, warn_about_seeds
from avatar_bench.metrics import classification, paired_tests, stats
from avatar_bench.metrics.accuracy_tests import beats_guessing, find_better_than_guessing, guessing_level
from avatar_bench.metrics.units import NEW_SOURCES
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class Significance(recipe_pairs.PairwiseOptions):
    """Comparison of the accuracy of every two recipes on the same images.

    Two differ significantly if p, by Holm over all pairs, is below `alpha` and the interval of their difference
    excludes 0. The rank of one lies from 1 plus the number of those that are significantly better to the number of
    those that are not significantly worse.
    """

    version: ClassVar[int] = 3
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute p-values, differences and a ranking with its ties; of single runs if all share one recipe."""
        predictions = align_predictions(runs, datasets)
        members = group_by_recipe(runs)
        if len(members) == 1:
            members = {run.label: [index] for index, run in enumerate(runs)}
        recipes = Recipes.of(members, runs, predictions)
        drawn = recipes.draw(self)
        result = Result("significance", datasets[0].name, len(predictions[0]), predictions[0].classes)
        accuracies = recipes.accuracies(self, drawn)
        order = sorted(range(len(members)), key=lambda index: -_round_value(accuracies[recipes.names[index]]))
        rows = [
            recipe_pairs.compare_pair(recipes, drawn, a, b, self.level, self.power, self.alpha)
            for a, b in combinations(order, 2)  # the better one first
        ]
        pairs = result.tables["pairs"] = recipe_pairs.mark_significant(pd.DataFrame(rows), self.alpha)
        ranking = _build_ranking(recipes, accuracies, pairs, order)
        ranking = result.tables["ranking"] = self._compare_with_guessing(ranking, recipes, predictions)
        result.metrics = {"best_accuracy": accuracies[recipes.names[order[0]]]}
        result.metrics |= self._build_metrics(pairs, ranking, recipes)
        result.metrics |= {f"accuracy/{name}": metric for name, metric in accuracies.items()}
        recipe = {run: name for name, runs_of_it in members.items() for run in runs_of_it}
        # behind all metrics: a row for each run, a column for each image
        result.arrays["answers"] = {
            "right": recipes.right,
            "recipe": np.array([recipe[index] for index in range(len(runs))], dtype=np.str_),
            "seed": np.array(recipes.seeds),
            "path": predictions[0].paths,
            "group": predictions[0].groups,
        }
        result.warnings = warn_unlabelled(len(datasets[0]) - len(predictions[0]), len(datasets[0]))
        result.warnings += warn_about_seeds(recipes.seeds_by_recipe) + _warn_about_guessing(ranking)
        result.warnings += recipe_pairs.warn_of_units(recipes.units, len(pairs), self.alpha)
        return result

    def _compare_with_guessing(
        self, ranking: pd.DataFrame, recipes: Recipes, predictions: Sequence[Predictions]
    ) -> pd.DataFrame:
        """Add the balanced accuracy of each recipe with its interval, and whether it is above guessing, by Holm."""
        statistic = build_statistic_of_runs(predictions, classification.balanced_accuracy)
        guessing = guessing_level(predictions[0].targets)
        observed, units = statistic(recipes.units.usable.weights[None])[0], recipes.units.usable.count
        values = [float(observed[list(runs)].mean()) for runs in recipes.members.values()]
        drawn = recipes.draw(self, statistic).T

        def find_ends(index: int, level: float) -> tuple[float, float]:
            if recipes.units.usable.sources is not None and recipes.sizes[index] == 1:
                return stats.balanced_interval_of_sources(recipes.counts[index], recipes.units, level)[:2]
            return recipes.find_ends(values[index], drawn[index], level)

        def is_better(index: int, level: float) -> bool | None:
            low = find_ends(index, level)[0]
            return beats_guessing(values[index], None if np.isnan(low) else low, units, guessing, level)

        places = range(len(values))
        better = find_better_than_guessing([partial(is_better, index) for index in places], self.level)
        ends = [find_ends(index, self.level) for index in places]
        columns = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
        added = pd.DataFrame(np.column_stack([values, ends]), recipes.names, columns)
        added["guessing"], added["better_than_guessing"] = guessing, better
        return ranking.join(added, on="recipe")

    def _build_metrics(self, pairs: pd.DataFrame, ranking: pd.DataFrame, recipes: Recipes) -> dict[str, Metric]:
        closest = pairs.iloc[0]  # the best two recipes
        n, why = int(closest["n"]), Reason.parse_cell(closest["n_required_reason"])
        gain = (closest["difference"], closest["low"], closest["high"])
        how = closest["test"] if closest["population"] == NEW_SOURCES else f"paired {recipes.method}"
        a, b = (recipes.names.index(closest[side]) for side in "ab")
        detectable = recipe_pairs.find_detectable_difference(recipes, a, b, self.power, self.alpha)
        planned = {name: closest[name] for name in recipe_pairs.PLANNED_DIFFERENCES}
        few = Reason("too_few_discordant") if why is None else why
        metrics = {
            name: Metric(None, n, higher_is_better=False, reason=few)
            if value is None or np.isnan(value)
            else Metric(int(value) if name in planned else float(value), n, higher_is_better=False)
            for name, value in {"detectable_difference": detectable, **planned}.items()
        }
        is_unknown = ranking["better_than_guessing"].isna().any()
        unknown = Reason("too_few_classes") if is_unknown else None
        better = None if is_unknown else int(ranking["better_than_guessing"].sum())
        return {
            "significant_pairs": Metric(int(pairs["significant"].sum()), len(pairs), higher_is_better=None),
            "better_than_guessing": Metric(better, len(ranking), higher_is_better=None, reason=unknown),
            "tied_with_best": Metric(int(ranking["tied_with_best"].sum()), len(ranking), higher_is_better=None),
            "gain_over_second": recipes.state(metric_with_interval(*gain, n, how)),
            **{name: recipes.state(metric) for name, metric in metrics.items()},
        }


def _round_value(metric: Metric) -> float:
    assert metric.value is not None
    return round(metric.value, 12)  # equal means over seeds may differ in their last digits


def _build_ranking(
    recipes: Recipes, accuracies: dict[str, Metric], pairs: pd.DataFrame, order: list[int]
) -> pd.DataFrame:
    names = [recipes.names[index] for index in order]
    metrics = [accuracies[name] for name in names]
    better = np.zeros((len(names), len(names)), dtype=bool)  # whether the row is significantly better than the column
    for a, b, difference in pairs.loc[pairs["significant"], ["a", "b", "difference"]].to_numpy().tolist():
        winner, loser = (a, b) if difference > 0 else (b, a)
        better[names.index(winner), names.index(loser)] = True
    table = pd.DataFrame({"recipe": names, "seeds": recipes.sizes[order]})
    table = table.assign(n=recipes.right.shape[1], **metrics[0].inference)
    beside = [metric.these_sources or {} for metric in metrics]
    for column, part in {"accuracy": "value", "low": "low", "high": "high", "interval": "interval"}.items():
        table[column] = [getattr(metric, part) for metric in metrics]
    for end in ("low", "high"):
        table[f"these_sources_{end}"] = [ends.get(end, math.nan) for ends in beside]
    table["rank"] = paired_tests.ranks([_round_value(metric) for metric in metrics])
    table["rank_low"], table["rank_high"] = paired_tests.bound_ranks(better)
    significant = better | better.T
    letters = paired_tests.assign_letters(paired_tests.find_tie_groups(significant), len(names))
    return table.assign(tied_with_best=~significant[0], letters=letters)


def _warn_about_guessing(ranking: pd.DataFrame) -> list[Reason]:
    names = ranking.loc[ranking["better_than_guessing"].eq(False), "recipe"].tolist()
    level = ranking["guessing"].iloc[0]
    if len(names) == len(ranking):
        return [Reason("all_are_guessing", n=len(names), level=level)]
    return [Reason("guessing", level=level, names=names)] if names else []
