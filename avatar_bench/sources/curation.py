"""Curation: which stored images make a data set, in which groups and on which side of its split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.data.duplicates import Match, find_matches
from avatar_bench.data.splits import SplitPlan, assign_splits, describe_imbalance
from avatar_bench.sources import refusals
from avatar_bench.sources.refusals import BLIND_SIDE, Opener, OtherSet, Sides

DUPLICATE_COLUMNS = (
    *("left", "right", "kind", "distance", "turned", "left_label", "right_label", "conflict", "outcome"),
    *("left_origin", "right_origin"),  # the file of the source, where the others name the stored image
)


@dataclass(frozen=True)
class CurationRules:
    """Say how a data set is put together from what is stored.

    `blind` names the sources, as in the recipe or as the images state them, that are kept out for a blind set, `ood`
    those of each out-of-domain set.
    `per_class` and `per_source` are the most images that are taken; None: all.
    """

    blind: tuple[str, ...] = ()
    per_class: int | None = None
    per_source: int | None = None
    plan: SplitPlan = field(default_factory=SplitPlan)
    ood: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class CurationResult:
    """Hold the rows that stay, those that cannot with the reason, every match that was found, and what to say of it.

    Of exact copies the first stays, and the others stand in `duplicates` alone.
    """

    frame: pd.DataFrame
    refused: list[tuple[str, str]] = field(default_factory=list)
    duplicates: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(DUPLICATE_COLUMNS)))
    notes: list[str] = field(default_factory=list)


def curate(
    stored: pd.DataFrame,
    rules: CurationRules,
    image: Opener,
    others: Sequence[OtherSet] = (),
    earlier: Sides | None = None,
) -> CurationResult:
    """Leave out copies, label conflicts and what a cap is over, join near-duplicates into groups, and split.

    `stored` has a row an image: path, label, source, recipe_source, origin, group, split ("" where not stated),
    sha256, origin_sha256, pixels, phashes. `earlier` gives the sides of the images that an update may
    not move, those included that have gone since. Raise ConfigError and GuardError as `splits.assign` does.
    """
    earlier = earlier or {}
    stored = _rank(stored, rules, earlier)
    prints = refusals.restore_fingerprints(stored)
    matches = find_matches(list(stored["origin_sha256"]), prints, _reorder_opener(stored, image))
    copies, refused = refusals.find_copies(stored, matches)
    shared = refusals.find_in_other_sets(stored, prints, _reorder_opener(stored, image), others)
    refused |= {row: f"stands in {other.name}: {other.paths[match.right]}" for row, (other, match) in shared.items()}
    refused |= refusals.find_moved_rows(stored, earlier, copies | refused.keys())
    joined = stored.assign(group=refusals.join_matches(stored, matches))
    refused |= refusals.find_mixed_groups(joined, copies | refused.keys())
    for among_new in (True, False):
        if torn := refusals.find_bridging_rows(joined, earlier, copies | refused.keys(), among_new):
            refused |= torn
            apart = [match for match in matches if not {match.left, match.right} & refused.keys()]
            joined = stored.assign(group=refusals.join_matches(stored, apart))
    kept = joined.drop(index=list(copies | refused.keys()))
    capped = _cap(kept, rules)
    curated = CurationResult(
        capped, [(refusals.format_origin(stored, row), reason) for row, reason in sorted(refused.items())]
    )
    curated.duplicates = _tabulate_duplicates(stored, matches, copies | refused.keys(), shared)
    curated.notes = _write_notes(curated, stored, kept, capped)
    curated.frame = _split(capped.sort_values("place", ignore_index=True), rules.plan, earlier, curated)
    return curated


def _rank(stored: pd.DataFrame, rules: CurationRules, earlier: Sides) -> pd.DataFrame:
    """Put first what stays of several copies: old images before new, what is trained on before what is kept out.

    An image is `blind` where it is kept out of training, and `ood` names the out-of-domain set that it belongs to, ""
    where it is none of these. It is `known` where it has been on this side before.
    """
    sets = {source: name for name, sources in rules.ood.items() for source in sources}
    named = zip(stored["source"], stored["recipe_source"], strict=True)
    ood = np.array([sets.get(own) or sets.get(recipe, "") for own, recipe in named], dtype=object)
    blind = stored["source"].isin(rules.blind) | stored["recipe_source"].isin(rules.blind) | (ood != "")
    before = [earlier[key][0] == BLIND_SIDE if key in earlier else None for key in stored["origin_sha256"]]
    known = [was is not None and was == now for was, now in zip(before, blind, strict=True)]
    marked = stored.assign(
        blind=blind, ood=ood, known=known, place=np.arange(len(stored)), stated_group=stored["group"]
    )
    return marked.sort_values(["known", "blind"], ascending=[False, True], kind="stable", ignore_index=True)


def _reorder_opener(stored: pd.DataFrame, image: Opener) -> Opener:
    """Give what opens the images in the order of `stored`."""
    places = stored["place"].tolist()
    return lambda row: image(places[row])


def _cap(kept: pd.DataFrame, rules: CurationRules) -> pd.DataFrame:
    """Take so many images of each source, then of each class, those that were there before first."""
    order = kept.assign(_draw=[_draw_key(digest, rules.plan.seed) for digest in kept["sha256"]])
    for column, most in (("source", rules.per_source), ("label", rules.per_class)):
        if most is not None:
            order = order.sort_values(["known", "_draw"], ascending=[False, True])
            order = order[order["blind"] | (order.groupby([column, "blind"]).cumcount() < most)]
    return kept.loc[order.index.sort_values()]


def _draw_key(sha256: str, seed: int) -> str:
    """Give what orders images at random, and each always at its place."""
    return hashlib.sha256(f"{seed}/{sha256}".encode()).hexdigest()


def _split(frame: pd.DataFrame, plan: SplitPlan, earlier: Sides, curated: CurationResult) -> pd.DataFrame:
    """Give the split and fold of each row that is not kept out; what can stand on no side is refused."""
    frame = frame.reset_index(drop=True).assign(fold="")
    frame.loc[frame["blind"], "split"] = ""
    rows = frame[~frame["blind"]]
    if rows.empty:
        return frame
    if plan.by == "group" and (rows["split"] != "").any():
        plan = replace(plan, by=None)  # what a source states is kept
    sides = {group: found[0] for group, found in refusals.collect_sides(rows, earlier).items() if found}
    split, fold = assign_splits(rows, plan, sides)
    if any(side >= 0 for _, side in sides.values()) and (fold < 0).all():
        curated.notes.append("a source states its split now, so no folds are given: data.fold of train has no choice")
    frame.loc[rows.index, "split"] = split
    frame.loc[rows.index, "fold"] = [str(number) if number >= 0 else "" for number in fold]
    lost = frame[(frame["split"] == "") & ~frame["blind"]]
    reason = f"shares a group with a {plan.by} that is held out"
    curated.refused += [(refusals.format_origin(frame, row), reason) for row in lost.index]
    frame = frame.drop(index=lost.index).reset_index(drop=True)
    curated.notes += [f"split: {words}" for words in describe_imbalance(frame[~frame["blind"]], plan.folds)]
    return frame


def _tabulate_duplicates(
    stored: pd.DataFrame,
    matches: Sequence[Match],
    out: Set[int],
    shared: Mapping[int, tuple[OtherSet, Match]],
) -> pd.DataFrame:
    path, label = stored["path"].tolist(), stored["label"].tolist()
    rows: list[tuple[Any, ...]] = []
    for m in matches:
        gone = [path[row] for row in (m.left, m.right) if row in out]
        outcome = ("one group", f"{' '.join(gone)} left out", "both left out")[len(gone)]
        pair = (path[m.left], path[m.right], m.kind, m.distance, m.turned, label[m.left], label[m.right])
        conflict = label[m.left] != label[m.right]
        rows.append(
            (*pair, conflict, outcome, refusals.format_origin(stored, m.left), refusals.format_origin(stored, m.right))
        )
    for row, (other, m) in shared.items():
        theirs, known = f"{other.name}: {other.paths[m.right]}", other.labels[m.right]
        pair = (path[row], theirs, m.kind, m.distance, m.turned, label[row], known)
        conflict = bool(known) and known != label[row]
        rows.append((*pair, conflict, f"{path[row]} left out", refusals.format_origin(stored, row), theirs))
    return pd.DataFrame(rows, columns=list(DUPLICATE_COLUMNS))


def _write_notes(curated: CurationResult, stored: pd.DataFrame, kept: pd.DataFrame, capped: pd.DataFrame) -> list[str]:
    """Say in words what was found and done."""
    table, notes = curated.duplicates, []
    for kind, count in table["kind"].value_counts(sort=False).items():
        notes.append(f"duplicates ({kind}): {count}; see duplicates.csv")
    if conflicts := int(table["conflict"].sum()):
        first = table[table["conflict"]].iloc[0]
        notes.append(
            f"warning: label conflicts: {conflicts}, first {first['left_origin']} ({first['left_label']}) and "
            f"{first['right_origin']} ({first['right_label']})"
        )
    for name in sorted(set(stored["ood"][stored["blind"]]) - set(capped["ood"][capped["blind"]])):
        what = f"the out-of-domain set {name}" if name else "the blind sources"
        notes.append(f"warning: no image of {what} is left: see quarantine.csv")
    if len(capped) < len(kept):
        before, after = (frame["label"].value_counts().sort_index() for frame in (kept, capped))
        counts = ", ".join(f"{name} {before[name]} to {after.get(name, 0)}" for name in before.index)
        notes.append(f"capped: {counts}")
    return notes
