"""Units that are held out one at a time: sources, or generators, with enough images to evaluate on."""

from __future__ import annotations

import pandas as pd

from avatar_bench.errors import DataError
from avatar_bench.terminal import counted


def units_to_hold_out(frame: pd.DataFrame, by: str, at_least: int) -> tuple[list[str], dict[str, str]]:
    """Return the units of `by` ("source" or "generator") that can each be held out, sorted; the others, each with why.

    A unit needs `at_least` images, and every class must keep images without it. Raise DataError where none is left.
    """
    named = frame[frame[by] != ""]
    counts = named[by].value_counts()
    reasons = {str(name): counted(count, "image") for name, count in counts.sort_index().items() if count < at_least}
    for label, rows in frame.groupby("label"):
        if rows[by].nunique() == 1 and (only := rows[by].iat[0]):
            reasons[str(only)] = f"all of class {label}"
    kept = sorted(set(map(str, counts.index)) - set(reasons))
    if not kept:
        why = ", ".join(f"{name} ({reason})" for name, reason in reasons.items()) or f"no image names its {by}"
        raise DataError(
            f"No {by} can be held out: {why}.",
            f"Expected {at_least} images of a {by} or more (data.split.at_least) among those that data.limit draws, "
            "and other images of its class.",
        )
    return kept, reasons
