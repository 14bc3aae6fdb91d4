"""Tables of transformers: recipes, pairs, missing metrics and published accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import IntervalOptions, metric_with_interval
from avatar_bench.evaluation.model_traits import FAMILY, SAM, SAM_AT_COST, SCRATCH, START, RecipePair, Traits
from avatar_bench.evaluation.seeds import Recipes, build_macro_f1_statistic
from avatar_bench.files.csv_io import read_csv
from avatar_bench.i18n import _
from avatar_bench.metrics import stats
from avatar_bench.metrics.calibration import ece, equal_width_edges
from avatar_bench.results.result import Metric

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

SAVED_METRICS = {  # from saved results: block, its metric, and whether higher is better
    "robustness": ("robustness", "robustness", True),
    "latency_ms": ("efficiency", "latency_ms/b1", False),
    "peak_memory_mb": ("efficiency", "peak_memory_mb", False),
}
_BINS = 15  # of the calibration error, as in the block calibration
_INTERACTIONS = ["a", "b", "a_sam", "b_sam", "gain_a", "gain_b", "difference", "low", "high"]
_INTERACTIONS += ["fewest_seeds", "n", "groups"]
_MISSING = ["recipe", "run", "figure", "reason"]
_TYPED = [
    "block",
    "network",
    "reported_on",
    "reported_year",
    "reported_accuracy",
    "reported_params_m",
    "reported_seconds",
]
_OURS = ["recipe", "start", "accuracy", "accuracy_low", "accuracy_high", "params_m", "seconds", "n"]
_STUDY = [*_TYPED, *_OURS, "reason", "where"]


def read_history() -> pd.DataFrame:
    """Return published accuracies of well-known networks on ImageNet-1k, a row per network with its citation."""
    return _read_packaged("history")


def build_study_table(recipes: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers that the study reported, each beside every recipe with that network, initial weights and SAM.

    A row without such a recipe has a `reason`. Accuracies are proportions, `seconds` are per image.
    """
    typed, ours = _read_packaged("study"), recipes.assign(seconds=recipes["latency_ms"] / 1000)
    found = [_match_recipes(row, ours) for __, row in typed.iterrows()]
    beside = pd.concat([own.assign(row=row) for row, (own, __) in enumerate(found)])
    typed = typed.assign(row=range(len(typed)), reason=[reason for __, reason in found])
    return typed[["row", *_TYPED, "reason", "where"]].merge(beside[["row", *_OURS]], on="row", how="left")[_STUDY]


def compute_metrics(
    block: IntervalOptions, recipes: Recipes, found: Sequence[Predictions], own: Sequence[Traits], drawn: np.ndarray
) -> dict[str, dict[str, Metric]]:
    """Compute accuracy, macro-F1, calibration error and training cost of each recipe."""
    accuracies = recipes.accuracies(block, drawn)
    f1 = build_macro_f1_statistic(found)
    values, resampled = f1(np.ones((1, len(found[0]))))[0], recipes.draw(block, f1)
    lows, highs = stats.percentiles(resampled, block.level)
    errors = [float(ece(one.confidence, one.correct, equal_width_edges(_BINS))) for one in found]
    figures = {}
    for place, (name, runs) in enumerate(recipes.members.items()):
        traits, several = own[place], len(runs) > 1
        method = "bootstrap by seed and group" if several else "bootstrap by group"
        figures[name] = {
            "accuracy": accuracies[name],
            "macro_f1": metric_with_interval(
                values[list(runs)].mean(), lows[place], highs[place], recipes.units, method
            ),
            "ece": Metric(float(np.mean([errors[run] for run in runs])), len(found[0]), higher_is_better=False),
            "train_seconds": _wrap_recorded(traits.seconds, len(runs), _("the training time is not recorded")),
            "passes_per_step": _wrap_recorded(traits.passes, len(runs), _("the number of passes is not recorded")),
        }
    return figures


def read_saved_metrics(
    members: Mapping[str, Sequence[int]], runs: Sequence[Run], of: str
) -> tuple[dict[str, dict[str, Metric]], pd.DataFrame]:
    """Return the mean of each saved metric over the runs of each recipe, and a table of missing ones."""
    results = [{block: run.saved(block, of) for block, *_rest in SAVED_METRICS.values()} for run in runs]
    found: dict[str, dict[str, Metric]] = {}
    missing = []
    for name, own in members.items():
        found[name] = {}
        for figure, (block, metric, better) in SAVED_METRICS.items():
            values = []
            for run in own:
                result = results[run][block]
                about = result.metrics.get(metric) if result else None
                if about is not None and about.value is not None:
                    values.append(about.value)
                    continue
                why = (about.reason if about else None) or _("no usable Result of {block}", block=block)
                missing.append((name, runs[run].label, figure, why))
            whole = len(values) == len(own)  # the other metrics of the row are means over all seeds
            reason = None if whole else missing[-1][3]
            value = float(np.mean(values)) if whole else None
            found[name][figure] = Metric(value, len(own), higher_is_better=better, reason=reason)
    return found, pd.DataFrame(missing, columns=_MISSING)


def build_recipes_table(
    recipes: Recipes, own: Sequence[Traits], figures: Mapping[str, Mapping[str, Metric]]
) -> pd.DataFrame:
    """Return the network, initial weights, optimizer and metrics of each recipe."""
    rows = []
    for place, (name, traits) in enumerate(zip(recipes.names, own, strict=True)):
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
            "seeds": int(recipes.sizes[place]),
            "n": recipes.right.shape[1],
            "groups": recipes.units,
        }
        for figure, metric in figures[name].items():
            row[figure] = metric.value
            if figure in ("accuracy", "macro_f1"):
                row |= {f"{figure}_low": metric.low, f"{figure}_high": metric.high}
        rows.append(row | {"interval": figures[name]["accuracy"].interval})
    return pd.DataFrame(rows).astype(dict.fromkeys(figures[recipes.names[0]], float))


def build_pairs_table(
    recipes: Recipes,
    own: Sequence[Traits],
    found: Sequence[RecipePair],
    drawn: np.ndarray,
    block: IntervalOptions,
    power: float,
    alpha: float,
) -> pd.DataFrame:
    """Return the change, difference, test, budget and detectable difference of each pair.

    `detectable` uses the strictest level of Holm's correction, `alpha` over the number of pairs; if it is NaN,
    `detectable_reason` explains why.
    """
    rows = []
    for pair in found:
        a, b = own[pair.a], own[pair.b]
        row: dict[str, object] = {
            "changed": pair.changed,
            "from": _describe_change(b, pair.changed),
            "to": _describe_change(a, pair.changed),
        }
        row |= recipe_pairs.compare_pair(recipes, drawn, pair.a, pair.b, block.level, power, alpha)
        for name in ("epochs", "train_images", "image_size"):
            row[name] = " | ".join(dict.fromkeys((a.settings[name], b.settings[name])))
        for side, one in (("a", a), ("b", b)):
            row |= {f"params_m_{side}": one.params / 1e6, f"macs_g_{side}": one.macs / 1e9}
        rows.append(row)
    if not rows:
        return pd.DataFrame(columns=["changed", "a", "b", "difference", "low", "high", "p", "p_holm", "significant"])
    table = recipe_pairs.mark_significant(pd.DataFrame(rows), alpha)
    least = [recipe_pairs.find_detectable_difference(row, power, alpha / len(rows)) for __, row in table.iterrows()]
    few = _("the two recipes differ on too few images")
    return table.assign(
        detectable=np.array(least, dtype=float), detectable_reason=["" if one is not None else few for one in least]
    )


def build_interactions_table(
    recipes: Recipes, found: Sequence[tuple[RecipePair, RecipePair]], drawn: np.ndarray, level: float
) -> pd.DataFrame:
    """Return the gains from SAM in every two families with and without SAM, and their difference.

    a and b are the recipes without SAM; the interval uses the same resamples for all four recipes; there is no test.
    """
    accuracy = recipes.counts.mean(axis=1) / recipes.sizes
    rows = []
    for one, other in found:
        gains = [accuracy[pair.a] - accuracy[pair.b] for pair in (one, other)]
        low, high = recipe_pairs.compute_interval(
            drawn[:, one.a] - drawn[:, one.b] - drawn[:, other.a] + drawn[:, other.b], level
        )
        places = (one.b, other.b, one.a, other.a)
        names = dict(zip(("a", "b", "a_sam", "b_sam"), (recipes.names[place] for place in places), strict=True))
        figures = (gains[0], gains[1], gains[0] - gains[1], low, high)
        rows.append(
            names
            | dict(zip(("gain_a", "gain_b", "difference", "low", "high"), map(float, figures), strict=True))
            | {
                "fewest_seeds": int(recipes.sizes[list(places)].min()),
                "n": recipes.right.shape[1],
                "groups": recipes.units,
            }
        )
    return pd.DataFrame(rows, columns=_INTERACTIONS)


def _read_packaged(table: str) -> pd.DataFrame:
    return read_csv(StringIO(files(__package__).joinpath(f"{table}.csv").read_text(encoding="utf-8")))


def _match_recipes(typed: pd.Series, ours: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the recipes that match a reported number, and why there are none."""

    def of(name: str, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows[name].astype(str).str.fullmatch(typed[name], case=False)]

    network = of("architecture", ours)
    with_sam = network[network["sam"] == typed["sam"]]
    found = of("trained_with", with_sam)
    if len(found):
        return found, ""
    if network.empty:
        return found, _("no recipe of this network")
    if with_sam.empty:
        return found, _("none of its recipes uses SAM") if typed["sam"] else _("all of its recipes use SAM")
    scratch = (with_sam["start"] == SCRATCH).all()
    return found, _("its recipes were trained from scratch") if scratch else _("its recipes started from other weights")


def _describe_change(traits: Traits, changed: str) -> str:
    sam = traits.sam or "none"
    return {SAM: sam, SAM_AT_COST: sam, START: str(traits.start), FAMILY: traits.family}[changed]


def _wrap_recorded(value: float | None, runs: int, otherwise: str) -> Metric:
    reason = None if value is not None else otherwise
    return Metric(None if value is None else float(value), runs, higher_is_better=False, reason=reason)
