"""Units that are held out one at a time: sources, or generators, with pictures enough to judge on."""

from __future__ import annotations

import pandas as pd

from avatar_bench.errors import DataError


def units_to_hold_out(frame: pd.DataFrame, by: str, at_least: int) -> tuple[list[str], dict[str, str]]:
    """Give the units of `by` ("source" or "generator") that can each be held out, sorted; the others, each with why.

    A unit needs `at_least` pictures, and every class must keep pictures without it. Raise DataError where none is left.
    """
    named = frame[frame[by] != ""]
    counts = named[by].value_counts()
    reasons = {str(name): f"{count} pictures" for name, count in counts.sort_index().items() if count < at_least}
    for label, rows in frame.groupby("label"):
        if rows[by].nunique() == 1 and (only := rows[by].iat[0]):
            reasons[str(only)] = f"all of class {label}"
    kept = sorted(set(map(str, counts.index)) - set(reasons))
    if not kept:
        why = ", ".join(f"{name} ({reason})" for name, reason in reasons.items()) or f"no picture names its {by}"
        raise DataError(
            f"No {by} can be held out: {why}.",
            f"Expected {at_least} pictures of a {by} or more (data.split.at_least), and other pictures of its class.",
        )
    return kept, reasons
