"""What transformers warns of: what else differs, what pairs cannot show, and on how few seeds they rest."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from avatar_bench.evaluation.model_traits import FAMILY, RecipePair, Traits
from avatar_bench.i18n import _

_ENOUGH_SEEDS = 5  # of a recipe, for a difference of differences; see the simulations in significance's page


def warn_about_protocol(settings: pd.DataFrame, own: Sequence[Traits]) -> list[str]:
    """Say in what the recipes differ that they are not compared by, what budget they had, and where they trained."""
    said = []
    differing = list(dict.fromkeys(settings.loc[settings["differs"], "setting"]))
    if differing:
        told = _(
            "The recipes differ in more than network, optimizer and start, see protocol.csv: {settings}.",
            settings=", ".join(differing),
        )
        said.append(told)
    if len(frozenset().union(*(each.hosts for each in own))) > 1:
        said.append(_("The recipes were not trained on one machine: their seconds of training cannot be compared."))
    budget = {
        name: " | ".join(settings.loc[settings["setting"] == name, "value"])
        for name in ("epochs", "train_images", "image_size")
    }
    images, size = budget["train_images"], budget["image_size"]
    if budget["epochs"] == "1":
        told = _(
            "The budget was one epoch on {images} training images of {size} pixels. What more of either, or other "
            "settings, would give is not shown.",
            images=images,
            size=size,
        )
    else:
        told = _(
            "The budget was {epochs} epochs, stage by stage, on {images} training images of {size} pixels. What "
            "more of either, or other settings, would give is not shown.",
            epochs=budget["epochs"],
            images=images,
            size=size,
        )
    return [*said, told]


def warn_about_families(names: Sequence[str], own: Sequence[Traits], found: Sequence[RecipePair]) -> list[str]:
    """Say which pairs of two networks may differ in what their weights were trained with, or differ much in size."""
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
    said = []
    if unknown:
        told = _(
            "What these weights were trained with is not known, and may be what makes the difference: {pairs}.",
            pairs="; ".join(unknown),
        )
        said.append(told)
    if unequal:
        told = _(
            "These networks differ more than twofold in parameters, so that their pair is of size as well: {pairs}.",
            pairs="; ".join(unequal),
        )
        said.append(told)
    return said


def warn_about_pairs(compared: pd.DataFrame) -> list[str]:
    """Say what the pairs cannot show."""
    if not len(compared):
        return [
            _("No two recipes differ in SAM, in the start or in the family of the network alone: there is no pair.")
        ]
    tied = compared[~compared["significant"]]
    beyond = tied["detectable"].isna()
    told = []
    if beyond.any():
        told.append(
            _(
                "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: too few images differ between "
                "them.",
                n=int(beyond.sum()),
                all=len(compared),
            )
        )
    if not beyond.all():
        least = sorted({f"{100 * ends:.1f}" for ends in tied["detectable"].agg(["min", "max"])}, key=float)
        told.append(
            _(
                "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: on {images} images a "
                "difference below {least} points would likely go undetected.",
                n=int((~beyond).sum()),
                all=len(compared),
                least="–".join(least),
                images=compared["n"].iloc[0],
            )
        )
    return told


def warn_about_interactions(interactions: pd.DataFrame) -> list[str]:
    """Say on how few seeds a difference of differences rests."""
    if not len(interactions) or interactions["fewest_seeds"].min() >= _ENOUGH_SEEDS:
        return []
    return [
        _(
            "What SAM gains in one family beyond another is a difference of differences, here of as few as {n} seeds a "
            "recipe: train {enough}. Its interval is not corrected for several of them.",
            n=interactions["fewest_seeds"].min(),
            enough=_ENOUGH_SEEDS,
        )
    ]
