"""transformers: the effect of attention, sharpness-aware minimisation and pretraining under one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import align_predictions, group_by_recipe, warn_unlabelled
from avatar_bench.evaluation.intervals import metric_with_interval
from avatar_bench.evaluation.seeds import Recipes, warn_about_seeds
from avatar_bench.evaluation.starting_weights import UNKNOWN
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

from . import study_tables as tables
from .recipe_traits import FAMILY, Traits, find_crossed_pairs, find_pairs, read_traits, tabulate_protocol

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

_ENOUGH_SEEDS = 5  # per recipe, for a difference of differences; see the simulations in docs/blocks/significance.md


@dataclass(kw_only=True)
class Transformers(recipe_pairs.PairwiseOptions):
    """Comparison of recipes by network, optimizer and initial weights, in pairs that differ in exactly one of them.

    Two differ significantly if p, by Holm over all pairs, is below `alpha` and the interval of their difference
    excludes 0.
    """

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "module")
    reads_results: ClassVar[bool] = True

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the metrics of each recipe, the pairs and the protocol, and add published accuracies.

        Raise BlockError if there are fewer than two runs, they cannot be aligned, or one has no network; GuardError if
        the class names are in the wrong order.
        """
        found = align_predictions(runs, datasets)
        recipes = Recipes.of(group_by_recipe(runs), runs, found)
        traits = [read_traits([runs[member] for member in members]) for members in recipes.members.values()]
        pairs, drawn = find_pairs(traits), recipes.draw(self)
        measured = tables.compute_metrics(self, recipes, found, traits, drawn)
        saved, missing = tables.read_saved_metrics(recipes.members, runs, datasets[0].name)
        metrics = {name: measured[name] | saved[name] for name in recipes.names}
        result = Result("transformers", datasets[0].name, len(found[0]), found[0].classes)
        result.tables = {
            "recipes": (table := tables.build_recipes_table(recipes, traits, metrics)),
            "pairs": tables.build_pairs_table(recipes, traits, pairs, drawn, self),
            "interactions": tables.build_interactions_table(recipes, find_crossed_pairs(pairs), drawn, self.level),
            "protocol": tabulate_protocol(recipes.names, traits),
            "missing": missing,
            "history": tables.read_published("history"),
            "study": tables.build_study_table(table),
        }
        result.metrics = _build_metrics(metrics, result.tables, recipes)
        result.warnings = warn_unlabelled(len(datasets[0]) - len(found[0]), len(datasets[0]))
        result.warnings += [*warn_about_seeds(recipes.seeds_by_recipe), *_collect_warnings(result.tables, traits)]
        return result


def _build_metrics(
    metrics: Mapping[str, Mapping[str, Metric]], found: Mapping[str, pd.DataFrame], recipes: Recipes
) -> dict[str, Metric]:
    built = {f"{metric}/{name}": value for name, own in metrics.items() for metric, value in own.items()}
    significant = found["pairs"]["significant"]
    built["significant_pairs"] = Metric(float(significant.sum()), len(significant), higher_is_better=None)
    for table, kind, a, b in (("pairs", "difference", "a", "b"), ("interactions", "interaction", "a_sam", "b_sam")):
        for row in found[table].to_dict("records"):
            ends = (row["difference"], row["low"], row["high"])
            metric = metric_with_interval(*ends, recipes.right.shape[1], f"paired {recipes.method}", better=None)
            built[f"{kind}/{row[a]} minus {row[b]}"] = recipes.state(metric)
    return built


def _collect_warnings(found: Mapping[str, pd.DataFrame], own: Sequence[Traits]) -> Iterator[Reason]:
    """Warn of other differences between the recipes, of the budget, and of what the pairs cannot show."""
    protocol, pairs = found["protocol"], found["pairs"]
    if differing := protocol.loc[protocol["differs"], "setting"].unique().tolist():
        yield Reason("other_settings", settings=differing)
    if len(frozenset().union(*(each.hosts for each in own))) > 1:
        yield Reason("other_machines")
    values = protocol.groupby("setting")["value"].agg(" | ".join)
    epochs, images, size = values[["epochs", "train_images", "image_size"]]
    budget = {"1": "budget_of_one", "none": "budget_of_probes"}.get(epochs, "budget")
    yield Reason(budget, epochs=epochs, images=images, size=size)
    yield from warn_about_families(pairs, found["recipes"])
    if pairs.empty:
        yield Reason("no_pair")
    tied = pairs.loc[~pairs["significant"].astype(bool), "detectable"] if len(pairs) else pd.Series(dtype=float)
    if tied.isna().any():
        yield Reason("tied_undetectable", n=int(tied.isna().sum()), all=len(pairs))
    if tied.notna().any():
        low, high = (round(100 * end, 1) for end in (tied.min(), tied.max()))
        least = Reason("range", low=low, high=high) if low < high else low
        yield Reason("tied", n=int(tied.notna().sum()), all=len(pairs), least=least, images=pairs["n"].iloc[0])
    fewest = found["interactions"]["fewest_seeds"].min()
    if fewest < _ENOUGH_SEEDS:
        yield Reason("few_seeds", n=fewest, enough=_ENOUGH_SEEDS)


def warn_about_families(pairs: pd.DataFrame, recipes: pd.DataFrame) -> Iterator[Reason]:
    """Warn of pairs of networks whose pretraining is unknown or whose sizes differ much."""
    about = recipes.set_index("recipe")
    starts = (about["start"] + " " + about["start_detail"]).str.strip()
    unknown, unequal = [], []
    for a, b in pairs.loc[pairs["changed"] == FAMILY, ["a", "b"]].to_numpy():
        params = about.loc[[a, b], "params_m"]
        if UNKNOWN in about.loc[[a, b], "trained_with"].tolist():
            unknown.append(Reason("started", a=a, b=b, start_a=starts[a], start_b=starts[b]))
        if params.max() > 2 * params.min():
            unequal.append(Reason("sized", a=a, b=b, size_a=params[a], size_b=params[b]))
    if unknown:
        yield Reason("unknown_pretraining", pairs=unknown)
    if unequal:
        yield Reason("unequal_sizes", pairs=unequal)
