"""Warnings of transformers: other differences in settings, limits of the pairs, and too few seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from avatar_bench.evaluation.model_traits import FAMILY, UNKNOWN, Traits
from avatar_bench.i18n import _

_ENOUGH_SEEDS = 5  # per recipe, for a difference of differences; see the simulations in docs/blocks/significance.md


def warn_about_protocol(settings: pd.DataFrame, own: Sequence[Traits]) -> list[str]:
    """Return warnings about other differences in settings, the training budget and different machines."""
    messages = []
    differing = settings.loc[settings["differs"], "setting"].unique()
    if len(differing):
        names = ", ".join(differing)
        messages.append(
            _("The recipes also differ in other settings, see protocol.csv: {settings}.", settings=names),
        )
    if len(frozenset().union(*(each.hosts for each in own))) > 1:
        messages.append(_("The recipes were trained on different machines: their training times cannot be compared."))
    values = settings.groupby("setting")["value"].agg(" | ".join)
    epochs, images, size = values[["epochs", "train_images", "image_size"]]
    budget = (
        _(
            "The budget was one epoch on {images} training images of {size} pixels. A larger "
            "budget or other settings may change the results.",
            images=images,
            size=size,
        )
        if epochs == "1"
        else _(
            "The budget was {epochs} epochs, stage by stage, on {images} training images of "
            "{size} pixels. A larger budget or other settings may change the results.",
            epochs=epochs,
            images=images,
            size=size,
        )
    )
    return [*messages, budget]


def warn_about_families(pairs: pd.DataFrame, recipes: pd.DataFrame) -> list[str]:
    """Return warnings about pairs of networks whose pretraining is unknown or whose sizes differ much."""
    about = recipes.set_index("recipe")
    starts = (about["start"] + " " + about["start_detail"]).str.strip()
    sizes = about["params_m"].map("{:.1f} M".format)
    unknown, unequal = [], []
    for a, b in pairs.loc[pairs["changed"] == FAMILY, ["a", "b"]].to_numpy():
        params = about.loc[[a, b], "params_m"]
        if UNKNOWN in about.loc[[a, b], "trained_with"].tolist():
            unknown.append(f"{a} ({starts[a]}) − {b} ({starts[b]})")
        if params.max() > 2 * params.min():
            unequal.append(f"{a} ({sizes[a]}) − {b} ({sizes[b]})")
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
    if compared.empty:
        return [
            _(
                "No two recipes differ only in SAM, only in the initial weights or only in the "
                "network family: there is no pair."
            )
        ]
    tied = compared.loc[~compared["significant"], "detectable"]
    least = sorted({f"{100 * end:.1f}" for end in tied.agg(["min", "max"])}, key=float)
    messages = []
    if tied.isna().any():
        message = _(
            "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: too few images differ between "
            "them.",
            n=int(tied.isna().sum()),
            all=len(compared),
        )
        messages.append(message)
    if tied.notna().any():
        message = _(
            "Statistically tied pairs: {n} of {all}. A tie is no proof of equality: on {images} images a "
            "difference below {least} points would likely go undetected.",
            n=int(tied.notna().sum()),
            all=len(compared),
            least="–".join(least),
            images=compared["n"].iloc[0],
        )
        messages.append(message)
    return messages


def warn_about_interactions(interactions: pd.DataFrame) -> list[str]:
    """Return a warning if a difference between two gains rests on few seeds."""
    fewest = interactions["fewest_seeds"].min()
    if interactions.empty or fewest >= _ENOUGH_SEEDS:
        return []
    return [
        _(
            "Differences between two gains from SAM rest on as few as {n} seeds per recipe: "
            "train {enough}. Their intervals are not corrected for multiple comparisons.",
            n=fewest,
            enough=_ENOUGH_SEEDS,
        )
    ]
