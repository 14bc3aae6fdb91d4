"""transformers: what attention, sharpness-aware minimisation and pretraining are worth under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.blocks import _pairs
from avatar_bench.blocks import _transformer_figures as figures
from avatar_bench.blocks import _transformer_tables as tables
from avatar_bench.blocks._seeds import Recipes, about_seeds
from avatar_bench.blocks._transformer_traits import Pair, Traits, pairs, protocol, traits
from avatar_bench.blocks.base import left_out, recipes, together
from avatar_bench.messages import say
from avatar_bench.results import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.runs import Run


@dataclass(kw_only=True)
class Transformers(_pairs.PairingBlock):
    """Compare recipes that differ in network, optimizer and start, in pairs where they differ in one of these alone.

    Two are told apart where p, by Holm over all pairs, is below `alpha` and the interval of their difference leaves
    out 0. `power` is the chance of that which `detectable` and `needed` ask for.
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
        result.tables = {
            "recipes": table,
            "pairs": compared,
            "protocol": protocol(judged.names, own),
            "missing": missing,
            "history": tables.history(),
        }
        result.metrics = _metrics(by_recipe, compared, judged)
        result.figures = {"accuracy": figures.accuracy(table), "history": figures.history(result.tables["history"])}
        if table["train_seconds"].notna().any():
            result.figures["cost"] = figures.cost(table)
        if len(compared):
            result.figures["differences"] = figures.differences(compared, table)
        result.warnings = [
            *left_out(len(datasets[0]) - len(found[0]), len(datasets[0])),
            *about_seeds(judged.seeds_of),
            *_about_protocol(result.tables["protocol"], own),
            *_about_families(judged.names, own, found_pairs),
            *_about_pairs(compared),
        ]
        return result


def _metrics(figures_of: dict[str, dict[str, Metric]], compared: pd.DataFrame, judged: Recipes) -> dict[str, Metric]:
    found = {f"{figure}/{name}": metric for name, own in figures_of.items() for figure, metric in own.items()}
    found["pairs_told_apart"] = Metric(float(compared["told_apart"].sum()), len(compared), higher_is_better=None)
    for _, row in compared.iterrows():
        low, high = (None if np.isnan(row[end]) else float(row[end]) for end in ("low", "high"))
        reason = say("no interval: every resample gives the same figure") if low is None else None
        method = None if low is None else "paired bootstrap"
        name = f"difference/{row['a']} minus {row['b']}"
        found[name] = Metric(float(row["difference"]), judged.units, low, high, method, None, reason)
    return found


def _about_protocol(settings: pd.DataFrame, own: Sequence[Traits]) -> list[str]:
    """Say in what the recipes differ that they are not compared by, what budget they had, and where they trained."""
    said = []
    differing = list(dict.fromkeys(settings.loc[settings["differs"], "setting"]))
    if differing:
        told = say(
            "The recipes differ in more than network, optimizer and start, see protocol.csv: {settings}.",
            settings=", ".join(differing),
        )
        said.append(told)
    if len(frozenset().union(*(each.hosts for each in own))) > 1:
        said.append(say("The recipes were not trained on one machine: their seconds of training cannot be compared."))
    budget = {
        name: " | ".join(settings.loc[settings["setting"] == name, "value"])
        for name in ("epochs", "train_pictures", "image_size")
    }
    told = say(
        "The budget was {epochs} epochs, stage by stage, on {pictures} training pictures of {size} pixels. What more "
        "of either, or other settings, would give is not shown.",
        epochs=budget["epochs"],
        pictures=budget["train_pictures"],
        size=budget["image_size"],
    )
    return [*said, told]


def _about_families(names: Sequence[str], own: Sequence[Traits], found: Sequence[Pair]) -> list[str]:
    """Say which pairs of two networks may differ in what their weights were trained with, or differ much in size."""
    families = [(names[pair.a], own[pair.a], names[pair.b], own[pair.b]) for pair in found if pair.changed == "family"]
    unknown = [
        f"{one} ({a.start}) − {other} ({b.start})"
        for one, a, other, b in families
        if not (a.start.known and b.start.known)
    ]
    unequal = [
        f"{one} ({a.params / 1e6:.1f} M) − {other} ({b.params / 1e6:.1f} M)"
        for one, a, other, b in families
        if max(a.params, b.params) > 2 * min(a.params, b.params)
    ]
    said = []
    if unknown:
        told = say(
            "What these weights were trained with is not known, and may be what makes the difference: {pairs}.",
            pairs="; ".join(unknown),
        )
        said.append(told)
    if unequal:
        told = say(
            "These networks differ more than twofold in parameters, so that their pair is of size as well: {pairs}.",
            pairs="; ".join(unequal),
        )
        said.append(told)
    return said


def _about_pairs(compared: pd.DataFrame) -> list[str]:
    """Say what the pairs cannot show."""
    if not len(compared):
        return [
            say("No two recipes differ in SAM, in the start or in the family of the network alone: there is no pair.")
        ]
    tied = compared[~compared["told_apart"]]
    if not len(tied):
        return []
    least = tied["detectable"].dropna()
    if not len(least):
        return [
            say(
                "{n} of {all} pairs are not told apart, which does not make them equal: too few pictures part them.",
                n=len(tied),
                all=len(compared),
            )
        ]
    return [
        say(
            "{n} of {all} pairs are not told apart, which does not make them equal: on {pictures} pictures a "
            "difference below {least} to {most} points would likely go unseen.",
            n=len(tied),
            all=len(compared),
            least=f"{100 * least.min():.1f}",
            most=f"{100 * least.max():.1f}",
            pictures=compared["n"].iloc[0],
        )
    ]
