"""Tables of transformers: recipes, pairs, missing metrics and published accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.intervals import IntervalOptions, metric_with_interval
from avatar_bench.evaluation.seeds import Recipes, build_statistic_of_runs
from avatar_bench.evaluation.starting_weights import SCRATCH
from avatar_bench.files.table_io import read_csv
from avatar_bench.metrics import calibration, classification
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

from .recipe_traits import FAMILY, START, RecipePair, Traits

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

SAVED_METRICS = {  # from saved results: block, its metric, and whether higher is better
    "robustness": ("robustness", "robustness", True),
    "latency_ms": ("efficiency", "latency_ms/b1", False),
    "peak_memory_mb": ("efficiency", "peak_memory_mb", False),
}
_NO_PAIRS = ["changed", "a", "b", "difference", "low", "high", "p", "p_holm", "significant"]
_INTERACTIONS = ["a", "b", "a_sam", "b_sam", "gain_a", "gain_b", "difference", "low", "high"]
_INTERACTIONS += ["fewest_seeds", "n", "units", "population"]
_REPORTED = ["block", "network", "reported_on", "reported_year", "reported_accuracy", "reported_params_m"]
_REPORTED += ["reported_seconds"]
_OURS = ["recipe", "start", "accuracy", "accuracy_low", "accuracy_high", "params_m", "seconds", "n"]


def read_published(name: str) -> pd.DataFrame:
    """Read the table "history", accuracies of networks on ImageNet-1k, or "study", the numbers of the study."""
    return read_csv(Path(__file__).with_name(f"{name}.csv"))


def build_study_table(recipes: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers that the study reported, each beside every recipe with that network, initial weights and SAM.

    A row without such a recipe has a `reason`. Accuracies are proportions, `seconds` are per image.
    """
    reported, measured = read_published("study"), recipes.assign(seconds=recipes["latency_ms"] / 1000)
    found = [_match_recipes(row, measured) for __, row in reported.iterrows()]
    matches = pd.concat([own[_OURS].assign(row=row) for row, (own, __) in enumerate(found)])
    reported = reported.assign(row=range(len(reported)), reason=[reason for __, reason in found])
    return reported.merge(matches, on="row", how="left")[[*_REPORTED, *_OURS, "reason", "where"]]


def compute_metrics(
    block: IntervalOptions, recipes: Recipes, found: Sequence[Predictions], own: Sequence[Traits], drawn: np.ndarray
) -> dict[str, dict[str, Metric]]:
    """Compute accuracy, macro-F1, calibration error and training cost of each recipe."""
    accuracies, n = recipes.accuracies(block, drawn), len(found[0])
    f1 = build_statistic_of_runs(found, classification.macro_f1)
    values, resampled = f1(np.ones((1, n)))[0], recipes.draw(block, f1).T
    errors = np.array([calibration.ece(one.confidence, one.correct) for one in found])
    metrics = {}
    for (name, members), traits, f1s in zip(recipes.members.items(), own, resampled, strict=True):
        runs, method = list(members), f"bootstrap by {'seed and ' * (len(members) > 1)}{recipes.unit}"
        value = float(values[runs].mean())
        ends = recipes.find_ends(value, f1s, block.level)
        metrics[name] = {
            "accuracy": accuracies[name],
            "macro_f1": recipes.state(metric_with_interval(value, *ends, n, method)),
            "ece": Metric(float(errors[runs].mean()), n, higher_is_better=False),
            "train_seconds": _build_metric(traits.seconds, len(runs), Reason("no_time")),
            "passes_per_step": _build_metric(traits.passes, len(runs), Reason("no_passes")),
        }
    return metrics


def read_saved_metrics(
    members: Mapping[str, Sequence[int]], runs: Sequence[Run], of: str
) -> tuple[dict[str, dict[str, Metric]], pd.DataFrame]:
    """Return the mean of each saved metric over the runs of each recipe, and a table of missing ones."""
    blocks = {block for block, *_rest in SAVED_METRICS.values()}
    results = [{block: run.saved(block, of) for block in blocks} for run in runs]
    collected: dict[str, dict[str, Metric]] = {name: {} for name in members}
    missing = []
    for name, member in members.items():
        for metric, (block, source, better) in SAVED_METRICS.items():
            saved = [_read_metric(results[run][block], block, source) for run in member]
            lacking = [(run, each.reason) for run, each in zip(member, saved, strict=True) if each.value is None]
            # the other metrics of a recipe are means over all its seeds
            value = None if lacking else float(np.mean([each.value for each in saved if each.value is not None]))
            collected[name][metric] = _build_metric(value, len(member), lacking[-1][1] if lacking else None, better)
            missing += [(name, runs[run].label, metric, str(reason)) for run, reason in lacking]
    return collected, pd.DataFrame(missing, columns=["recipe", "run", "metric", "reason"])


def build_recipes_table(
    recipes: Recipes, own: Sequence[Traits], metrics: Mapping[str, Mapping[str, Metric]]
) -> pd.DataFrame:
    """Return the network, initial weights, optimizer and metrics of each recipe."""
    rows = []
    for name, seeds, traits in zip(recipes.names, recipes.sizes.tolist(), own, strict=True):
        row: dict[str, object] = {
            "recipe": name,
            "family": traits.family,
            "architecture": traits.architecture,
            "params_m": traits.params / 1e6,
            "macs_g": traits.macs / 1e9,
            "start": traits.start.kind,
            "start_detail": traits.start.detail,
            "trained_with": traits.start.trained,
            "sam": bool(traits.sam),
            "seeds": seeds,
            "n": recipes.right.shape[1],
            **metrics[name]["accuracy"].inference,
        }
        for metric, about in metrics[name].items():
            row[metric] = about.value
            if metric in ("accuracy", "macro_f1"):
                row |= {f"{metric}_low": about.low, f"{metric}_high": about.high}
        rows.append(row | {"interval": metrics[name]["accuracy"].interval})
    return pd.DataFrame(rows).astype(dict.fromkeys(metrics[recipes.names[0]], float))


def build_pairs_table(
    recipes: Recipes,
    own: Sequence[Traits],
    found: Sequence[RecipePair],
    drawn: np.ndarray,
    block: recipe_pairs.PairwiseOptions,
) -> pd.DataFrame:
    """Return the change, difference, test, budget and detectable difference of each pair.

    `detectable` uses the strictest level of Holm's correction, `alpha` over the number of pairs; if it is NaN,
    `detectable_reason` explains why.
    """
    rows = []
    for pair in found:
        a, b = own[pair.a], own[pair.b]
        trait = {START: "start", FAMILY: "family"}.get(pair.changed, "sam")
        before, after = (str(getattr(traits, trait) or "none") for traits in (b, a))
        row: dict[str, object] = {"changed": pair.changed, "from": before, "to": after}
        row |= recipe_pairs.compare_pair(recipes, drawn, pair.a, pair.b, block.level, block.power, block.alpha)
        for name in ("epochs", "train_images", "image_size"):
            row[name] = " | ".join(dict.fromkeys((a.settings[name], b.settings[name])))
        for side, one in (("a", a), ("b", b)):
            row |= {f"params_m_{side}": one.params / 1e6, f"macs_g_{side}": one.macs / 1e9}
        rows.append(row)
    if not rows:
        return pd.DataFrame(columns=_NO_PAIRS)
    table = recipe_pairs.mark_significant(pd.DataFrame(rows), block.alpha)
    strictest = block.alpha / len(rows)
    least = [recipe_pairs.find_detectable_difference(recipes, pair.a, pair.b, block.power, strictest) for pair in found]
    table["detectable"] = np.array(least, dtype=float)
    return table.assign(detectable_reason=np.where(table["detectable"].isna(), str(Reason("few_differ")), ""))


def build_interactions_table(
    recipes: Recipes, found: Sequence[tuple[RecipePair, RecipePair]], drawn: np.ndarray, level: float
) -> pd.DataFrame:
    """Return the gains from SAM in every two families with and without SAM, and their difference.

    a and b are the recipes without SAM; the interval uses the same resamples for all four recipes; there is no test.
    """
    accuracy = recipes.counts.mean(axis=1) / recipes.sizes
    rows = []
    for one, other in found:
        places = [one.b, other.b, one.a, other.a]
        gains = [float(accuracy[pair.a] - accuracy[pair.b]) for pair in (one, other)]
        resampled = drawn[:, one.a] - drawn[:, one.b] - drawn[:, other.a] + drawn[:, other.b]
        change = gains[0] - gains[1]
        numbers = (*gains, change, *recipes.find_ends(change, resampled, level, (-2.0, 2.0)))
        units = recipes.units.usable
        counts = (int(recipes.sizes[places].min()), len(units), units.count, units.population)
        rows.append((*(recipes.names[place] for place in places), *numbers, *counts))
    return pd.DataFrame(rows, columns=_INTERACTIONS)


def _match_recipes(reported: pd.Series, measured: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the recipes that match a reported number, and why there are none."""

    def of(name: str, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows[name].astype(str).str.fullmatch(reported[name], case=False)]

    network = of("architecture", measured)
    with_sam = network[network["sam"] == reported["sam"]]
    found = of("trained_with", with_sam)
    if len(found):
        return found, ""
    if network.empty:
        code = "no_recipe"
    elif with_sam.empty:
        code = "none_with_sam" if reported["sam"] else "all_with_sam"
    else:
        code = "from_scratch" if (with_sam["start"] == SCRATCH).all() else "from_other_weights"
    return found, str(Reason(code))


def _read_metric(result: Result | None, block: str, metric: str) -> Metric:
    """Return a saved metric; one with a reason that names its block if it has no value."""
    if result is None or metric not in result.metrics:
        return Metric(None, 0, reason=Reason("no_result", block=block))
    saved = result.metrics[metric]
    return (
        saved
        if saved.value is not None
        else Metric(None, 0, reason=Reason("of_block", block=block, reason=saved.reason))
    )


def _build_metric(value: float | None, runs: int, reason: Reason | None, better: bool = False) -> Metric:
    if value is None:
        return Metric(None, runs, higher_is_better=better, reason=reason)
    return Metric(float(value), runs, higher_is_better=better)
