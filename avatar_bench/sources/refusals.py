"""Refusals: which stored images cannot be in a data set, for the sake of which others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.duplicates import Match, find_matches_between, join_groups
from avatar_bench.data.fingerprints import Fingerprint

EXACT_KINDS = ("bytes", "pixels")
BLIND_SIDE = "blind"  # the side of an image that is kept out of training: in the blind set, or an out-of-domain set
GROUP_PREFIX = "group "  # before the name of a group that a source states, among the keys of Sides
Side = tuple[str, int]  # split or BLIND, and fold or -1
Sides = Mapping[str, Side]  # by the SHA-256 of the file found, or by GROUP and the name
Opener = Callable[[int], NDArray[np.uint8]]  # gives the decoded image of a row


@dataclass(frozen=True)
class OtherSet:
    """Hold the fingerprints of a set that the data set must share no image with."""

    name: str
    paths: Sequence[str]
    labels: Sequence[str]
    sha256s: Sequence[str]
    fingerprints: Sequence[Fingerprint]
    image: Opener


def find_copies(stored: pd.DataFrame, matches: Sequence[Match]) -> tuple[set[int], dict[int, str]]:
    """Give the rows that repeat an earlier one, and those whose copy bears another label, with the reason."""
    pairs = _stack_pairs([match for match in matches if match.kind in EXACT_KINDS])
    names = join_groups([str(row) for row in range(len(stored))], pairs)
    clusters: dict[str, list[int]] = {}
    for row in np.unique(pairs).tolist():
        clusters.setdefault(names[row], []).append(row)
    copies: set[int] = set()
    refused: dict[int, str] = {}
    label = stored["label"].tolist()
    for rows in clusters.values():
        conflicts = _find_label_conflicts(stored, rows, label)
        refused |= conflicts
        copies |= set() if conflicts else set(rows[1:])
    return copies, refused


def find_in_other_sets(
    stored: pd.DataFrame, prints: list[Fingerprint], image: Opener, others: Sequence[OtherSet]
) -> dict[int, tuple[OtherSet, Match]]:
    """Give the rows that one of the other sets holds too, each with the first match."""
    found: dict[int, tuple[OtherSet, Match]] = {}
    for other in others:
        mine = (list(stored["origin_sha256"]), prints, image)
        for match in find_matches_between(mine, (list(other.sha256s), list(other.fingerprints), other.image)):
            found.setdefault(match.left, (other, match))
    return found


def find_moved_rows(stored: pd.DataFrame, earlier: Sides, out: Set[int]) -> dict[int, str]:
    """Give the rows that were kept out of training once, and now would be trained on, or the other way round."""
    rows = enumerate(zip(stored["origin_sha256"], stored["blind"], stored["known"], strict=True))
    told = {False: "was kept out of training before", True: "was in the data to train on before"}
    return {row: told[blind] for row, (key, blind, known) in rows if key in earlier and not known and row not in out}


def find_mixed_groups(joined: pd.DataFrame, out: Set[int]) -> dict[int, str]:
    """Give the rows that go where a group holds images kept out and others: those kept out, unless they are old."""
    staying = joined.drop(index=list(out))
    mixed = staying[staying.groupby("group")["blind"].transform("nunique") > 1]
    refused: dict[int, str] = {}
    for _, rows in mixed.groupby("group", sort=False):
        blind_stays = bool(rows["blind"].iloc[0])  # the oldest comes first
        stays = format_origin(joined, int(rows.index[0]))
        where = "is kept out of training" if blind_stays else "is in the data to train on"
        told = f"belongs with {stays}, which {where}: a near-duplicate, or of one group"
        refused |= dict.fromkeys(rows.index[rows["blind"] != blind_stays].tolist(), told)
    return refused


def find_bridging_rows(joined: pd.DataFrame, earlier: Sides, out: Set[int], among_new: bool) -> dict[int, str]:
    """Give the rows that go where a group would join images that stand on two sides of the split already.

    `among_new`: the new ones, which join them. Else those that were away when the others came, or the other way round:
    all that are not on the side of the first.
    """
    staying = joined.drop(index=list(out))
    sides = collect_sides(staying, earlier)
    torn = staying[staying["group"].isin({group for group, found in sides.items() if len(found) > 1})]
    if among_new:
        rows = torn.index[~torn["known"]]
    else:
        own = torn["origin_sha256"].map(lambda key: earlier.get(key))
        rows = torn.index[own != own.groupby(torn["group"]).transform("first")]
    return {int(row): "a near-duplicate of images on two sides of the split" for row in rows}


def collect_sides(rows: pd.DataFrame, earlier: Sides) -> dict[str, list[Side]]:
    """Give the sides on which the images of each group, or others of a group that they state, have stood so far."""
    sides: dict[str, list[Side]] = {}
    for sha256, stated, group in zip(rows["origin_sha256"], rows["stated_group"], rows["group"], strict=True):
        for key in (sha256, GROUP_PREFIX + stated):
            if key in earlier and earlier[key] not in sides.setdefault(group, []):
                sides[group].append(earlier[key])
    return sides


def join_matches(stored: pd.DataFrame, matches: Sequence[Match]) -> list[str]:
    return join_groups(list(stored["group"]), _stack_pairs(matches))


def restore_fingerprints(stored: pd.DataFrame) -> list[Fingerprint]:
    return [
        Fingerprint(pixels, tuple(phashes)) for pixels, phashes in zip(stored["pixels"], stored["phashes"], strict=True)
    ]


def format_origin(stored: pd.DataFrame, row: int) -> str:
    """Give what an image was called where it was found."""
    return f"{stored['recipe_source'].iat[row]}: {stored['origin'].iat[row]}"


def _find_label_conflicts(stored: pd.DataFrame, rows: Sequence[int], label: Sequence[str]) -> dict[int, str]:
    """Give why the rows of one image go, where their labels contradict each other."""
    others = {row: next((o for o in rows if label[o] != label[row]), row) for row in rows}
    return {
        row: f"label conflict: {label[row]!r} here, and {label[other]!r} as {format_origin(stored, other)}"
        for row, other in others.items()
        if other != row
    }


def _stack_pairs(matches: Sequence[Match]) -> NDArray[np.intp]:
    return np.array([(match.left, match.right) for match in matches], dtype=np.intp).reshape(-1, 2)
