"""Warnings of transformers: other differences in settings, limits of the pairs, and too few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from avatar_bench.evaluation.model_traits import FAMILY, RecipePair, Traits
from avatar_bench.i18n import _

_ENOUGH_SEEDS = 5  # per recipe, for a difference of differences; see the simulations in docs/blocks/significance.md


def warn_about_protocol(settings: pd.DataFrame, own: Sequence[Traits]) -> list[str]:
    """Return warnings about other differences in settings, the training budget and different machines."""
    messages = []
    differing = list(dict.fromkeys(settings.loc[settings["differs"], "setting"]))
    if differing:
        message = _(
            "The recipes also differ in other settings, see protocol.csv: {settings}.",
            settings=", ".join(differing),
        )
        messages.append(message)
    if len(frozenset().union(*(each.hosts for each in own))) > 1:
        messages.append(_("The recipes were trained on different machines: their training times cannot be compared."))
    budget = {
        name: " | ".join(settings.loc[settings["setting"] == name, "value"])
        for name in ("epochs", "train_images", "image_size")
    }
    images, size = budget["train_images"], budget["image_size"]
    if budget["epochs"] == "1":
        message = _(
            "The budget was one epoch on {images} training images of {size} pixels. A larger "
            "budget or other settings may change the results.",
            images=images,
            size=size,
        )
    else:
        message = _(
            "The budget was {epochs} epochs, stage by stage, on {images} training images of "
            "{size} pixels. A larger budget or other settings may change the results.",
            epochs=budget["epochs"],
            images=images,
            size=size,
        )
    return [*messages, message]


def warn_about_families(names: Sequence[str], own: Sequence[Traits], found: Sequence[RecipePair]) -> list[str]:
    """Return warnings about pairs of networks whose pretraining is unknown or whose sizes differ much."""
    families = [(names[pair.a], own[pair.a], names[pair.b], own[pair.b]) for pair in found if pair.changed == FAMILY]
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
    messages = []
    if unknown:
        message = _(
            "The pretraining of some weights is unknown and may explain the difference: {pairs}.",
            pairs="; ".join(unknown),
        )
        messages.append(message)
    if unequal:
        message = _(
            "These networks differ more than twofold in parameters, so size may explain the difference: {pairs}.",
            pairs="; ".join(unequal),
        )
        messages.append(message)
    return messages


def warn_about_pairs(compared: pd.DataFrame) -> list[str]:
    """Return warnings about what the pairs cannot show."""
    if not len(compared):
        return [
            _(
                "No two recipes differ only in SAM, only in the initial weights or only in the "
                "network family: there is no pair."
            )
        ]
    tied = compared[~compared["significant"]]
    beyond = tied["detectable"].isna()
    messages = []
    if beyond.any():
        messages.append(
            _(
                "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: too few images differ between "
                "them.",
                n=int(beyond.sum()),
                all=len(compared),
            )
        )
    if not beyond.all():
        least = sorted({f"{100 * ends:.1f}" for ends in tied["detectable"].agg(["min", "max"])}, key=float)
        messages.append(
            _(
                "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: on {images} images a "
                "difference below {least} points would likely go undetected.",
                n=int((~beyond).sum()),
                all=len(compared),
                least="–".join(least),
                images=compared["n"].iloc[0],
            )
        )
    return messages


def warn_about_interactions(interactions: pd.DataFrame) -> list[str]:
    """Return a warning if a difference between two gains rests on few seeds."""
    if not len(interactions) or interactions["fewest_seeds"].min() >= _ENOUGH_SEEDS:
        return []
    return [
        _(
            "Differences between two gains from SAM rest on as few as {n} seeds per recipe: "
            "train {enough}. Their intervals are not corrected for multiple comparisons.",
            n=interactions["fewest_seeds"].min(),
            enough=_ENOUGH_SEEDS,
        )
    ]
