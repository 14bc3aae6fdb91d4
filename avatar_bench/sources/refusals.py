"""Rules that refuse stored images because of copies, conflicts or sides of the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.duplicates import ImageSet, Match, join_groups

EXACT_KINDS = ("bytes", "pixels")
BLIND_SIDE = "blind"  # side of images held out of training: the external test set and the out-of-domain sets
GROUP_PREFIX = "group "  # of the keys of Sides for groups stated by a source
Side = tuple[str, int]  # split or BLIND_SIDE, and fold or -1
Sides = Mapping[str, Side]  # by the SHA-256 of the original file, or by GROUP_PREFIX and the group
_SIDE_COLUMNS = ["group", "stated_group", "origin_sha256", "blind", "known"]  # of all columns these decide on sides


@dataclass(frozen=True)
class OtherSet:
    """A set that must share no image with the dataset."""

    name: str
    paths: Sequence[str]
    labels: Sequence[str]
    images: ImageSet


def find_copies(stored: pd.DataFrame, matches: Sequence[Match]) -> tuple[set[int], dict[int, str]]:
    """Return the rows that repeat an earlier one, and those whose copy has another label, with the reason."""
    pairs = _stack_pairs([match for match in matches if match.kind in EXACT_KINDS])
    linked, places = np.unique(pairs, return_inverse=True)
    names = join_groups([str(row) for row in linked], places.reshape(-1, 2))
    clusters: dict[str, list[int]] = {}
    for row, name in zip(linked.tolist(), names, strict=True):
        clusters.setdefault(name, []).append(row)
    copies: set[int] = set()
    refused: dict[int, str] = {}
    label = stored["label"].tolist()
    for rows in clusters.values():
        others = {row: next((o for o in rows if label[o] != label[row]), row) for row in rows}
        conflicts = {row: other for row, other in others.items() if other != row}
        for row, other in conflicts.items():
            there = f"{label[other]!r} as {format_origin(stored, other)}"
            refused[row] = f"label conflict: {label[row]!r} here, and {there}"
        copies |= set() if conflicts else set(rows[1:])
    return copies, refused


def find_moved_rows(stored: pd.DataFrame, earlier: Sides, out: Set[int]) -> dict[int, str]:
    """Return the rows that were held out of training before and no longer are, or the other way round."""
    rows = enumerate(zip(stored["origin_sha256"], stored["blind"], stored["known"], strict=True))
    reasons = {False: "was held out of training before", True: "was in the training data before"}
    return {row: reasons[blind] for row, (key, blind, known) in rows if key in earlier and not known and row not in out}


def find_mixed_groups(joined: pd.DataFrame, out: Set[int]) -> dict[int, str]:
    """Return the rows to refuse in groups that mix held-out and training images.

    The side of the group's oldest image wins; among new images alone, training wins.
    """
    if not joined["blind"].any():
        return {}
    staying = joined[_SIDE_COLUMNS].drop(index=list(out))
    mixed = staying[staying.groupby("group")["blind"].transform("nunique") > 1]
    refused: dict[int, str] = {}
    for _, rows in mixed.groupby("group", sort=False):
        blind_stays = bool(rows["blind"].iloc[0])  # the oldest row comes first
        stays = format_origin(joined, int(rows.index[0]))
        where = "is held out of training" if blind_stays else "is in the training data"
        reason = f"is a near-duplicate or in a group of {stays}, which {where}"
        refused |= dict.fromkeys(rows.index[rows["blind"] != blind_stays].tolist(), reason)
    return refused


def find_bridging_rows(joined: pd.DataFrame, earlier: Sides, out: Set[int], among_new: bool) -> dict[int, str]:
    """Return the rows to refuse in groups that would join images on two sides of the split.

    `among_new`: the new rows, which join them. Otherwise all rows on another side than the first, such as images that
    were missing when the others were added.
    """
    if not earlier:
        return {}
    staying = joined[_SIDE_COLUMNS].drop(index=list(out))
    sides = collect_sides(staying, earlier)
    joining = staying[staying["group"].isin({group for group, found in sides.items() if len(found) > 1})]
    if among_new:
        rows = joining.index[~joining["known"]]
    else:
        own = joining["origin_sha256"].map(lambda key: earlier.get(key))
        rows = joining.index[own != own.groupby(joining["group"]).transform("first")]
    return {int(row): "a near-duplicate of images on two sides of the split" for row in rows}


def collect_sides(rows: pd.DataFrame, earlier: Sides) -> dict[str, list[Side]]:
    """Return the sides of each group so far: those of its images and of the groups that they state."""
    sides: dict[str, list[Side]] = {}
    for sha256, stated, group in zip(rows["origin_sha256"], rows["stated_group"], rows["group"], strict=True):
        for key in (sha256, GROUP_PREFIX + stated):
            if key in earlier and earlier[key] not in sides.setdefault(group, []):
                sides[group].append(earlier[key])
    return sides


def join_matches(stored: pd.DataFrame, matches: Sequence[Match]) -> pd.DataFrame:
    """Return the table with one group for all images that match."""
    return stored.assign(group=join_groups(stored["group"], _stack_pairs(matches)))


def format_origin(stored: pd.DataFrame, row: int) -> str:
    """Return an image's name in its source."""
    return f"{stored['recipe_source'].iat[row]}: {stored['origin'].iat[row]}"


def _stack_pairs(matches: Sequence[Match]) -> NDArray[np.intp]:
    return np.array([(match.left, match.right) for match in matches], dtype=np.intp).reshape(-1, 2)
