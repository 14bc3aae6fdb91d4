"""Curation: the selection of stored images, their groups and their split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.data.duplicates import Match, find_matches, find_matches_between
from avatar_bench.data.fingerprints import Fingerprint
from avatar_bench.data.splits import SplitPlan, assign_splits, describe_imbalance
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.sources import refusals
from avatar_bench.sources.refusals import BLIND_SIDE, Opener, OtherSet, Sides

DUPLICATE_COLUMNS = (
    *("left", "right", "kind", "distance", "turned", "left_label", "right_label", "conflict", "outcome"),
    *("left_origin", "right_origin"),  # files of the sources; the other columns name stored images
)


@dataclass(frozen=True)
class CurationRules:
    """Rules for building a dataset from the stored images.

    `blind` lists the sources, as named in the recipe or by the images, that form the external test set; `ood` those of
    each out-of-domain set. `per_class` and `per_source` are maximum numbers of images; None means no limit.
    """

    blind: tuple[str, ...] = ()
    per_class: int | None = None
    per_source: int | None = None
    plan: SplitPlan = field(default_factory=SplitPlan)
    ood: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class CurationResult:
    """Accepted rows, refused ones with the reason, every match found, and notes for the user.

    Of exact copies the first is accepted; the others appear only in `duplicates`.
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
    """Drop copies, label conflicts and images above a limit, join near-duplicates into groups, and split.

    `stored` has one row per image: path, label, source, recipe_source, origin, group, split ("" if not stated), sha256,
    origin_sha256, pixels, phashes (joined by spaces). `earlier` maps the images that an update may not move, including
    deleted ones, to their sides. Raise ConfigError and GuardError as `splits.assign_splits` does.
    """
    earlier = earlier or {}
    stored = _rank(stored, rules, earlier)
    matches, shared = _find_matches(stored, image, others)
    upright = [joined.partition(" ")[0] for joined in stored["phashes"]]
    stored = stored.drop(columns=["pixels", "phashes"]).assign(phash=upright)
    copies, refused = refusals.find_copies(stored, matches)
    refused |= {row: f"is also in {other.name}: {other.paths[match.right]}" for row, (other, match) in shared.items()}
    refused |= refusals.find_moved_rows(stored, earlier, copies | refused.keys())
    joined = refusals.join_matches(stored, matches)
    refused |= refusals.find_mixed_groups(joined, copies | refused.keys())
    for among_new in (True, False):
        if bridging := refusals.find_bridging_rows(joined, earlier, copies | refused.keys(), among_new):
            refused |= bridging
            remaining = [match for match in matches if not {match.left, match.right} & refused.keys()]
            joined = refusals.join_matches(stored, remaining)
    accepted = joined.drop(index=list(copies | refused.keys()))
    capped = _cap(accepted, rules)
    named = [(refusals.format_origin(stored, row), reason) for row, reason in sorted(refused.items())]
    curated = CurationResult(capped, named, _tabulate_duplicates(stored, matches, copies | refused.keys(), shared))
    curated.notes = _write_notes(curated, stored, accepted, capped)
    curated.frame = _split(capped.sort_values("place", ignore_index=True), rules.plan, earlier, curated)
    return curated


def _find_matches(
    stored: pd.DataFrame, image: Opener, others: Sequence[OtherSet]
) -> tuple[list[Match], dict[int, tuple[OtherSet, Match]]]:
    """Find the copies within the stored images, and the rows that are in another set too, each with the first match."""
    hashes = zip(stored["pixels"], stored["phashes"], strict=True)
    prints = [Fingerprint(pixels, tuple(joined.split())) for pixels, joined in hashes]
    places = stored["place"].to_numpy()
    own = (list(stored["origin_sha256"]), prints, lambda row: image(int(places[row])))
    shared: dict[int, tuple[OtherSet, Match]] = {}
    for other in others:
        theirs = (list(other.sha256s), list(other.fingerprints), other.image)
        for match in find_matches_between(own, theirs):
            shared.setdefault(match.left, (other, match))
    return find_matches(*own), shared


def _rank(stored: pd.DataFrame, rules: CurationRules, earlier: Sides) -> pd.DataFrame:
    """Sort so that the accepted copy comes first: old images before new ones, training images before held-out ones.

    `blind` marks images that are held out of training, and `ood` names their out-of-domain set, "" if none. `known`
    marks images that were on this side before.
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


def _cap(accepted: pd.DataFrame, rules: CurationRules) -> pd.DataFrame:
    """Limit the images of each source, then of each class; images of earlier builds come first."""
    seed = rules.plan.seed  # the hash orders the images at random, reproducibly for each image
    drawn = [sha256_of_text(f"{seed}/{digest}") for digest in accepted["sha256"]]
    order = accepted.assign(_draw=drawn)
    for column, most in (("source", rules.per_source), ("label", rules.per_class)):
        if most is not None:
            order = order.sort_values(["known", "_draw"], ascending=[False, True])
            order = order[order["blind"] | (order.groupby([column, "blind"]).cumcount() < most)]
    return accepted.loc[order.index.sort_values()]


def _split(frame: pd.DataFrame, plan: SplitPlan, earlier: Sides, curated: CurationResult) -> pd.DataFrame:
    """Assign split and fold to each training row; rows that fit on no side are refused."""
    frame = frame.reset_index(drop=True).assign(fold="")
    frame.loc[frame["blind"], "split"] = ""
    rows = frame[~frame["blind"]]
    if rows.empty:
        return frame
    if plan.by == "group" and (rows["split"] != "").any():
        plan = replace(plan, by=None)  # keep the split that a source states
    sides = {group: found[0] for group, found in refusals.collect_sides(rows, earlier).items() if found}
    split, fold = assign_splits(rows, plan, sides)
    if any(side >= 0 for _, side in sides.values()) and (fold < 0).all():
        curated.notes.append("a source now states its split, so there are no folds: data.fold of train has no effect")
    frame.loc[rows.index, "split"] = split
    frame.loc[rows.index, "fold"] = [str(number) if number >= 0 else "" for number in fold]
    lost = frame[(frame["split"] == "") & ~frame["blind"]]
    reason = f"shares a group with a held-out {plan.by}"
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
    origin = (stored["recipe_source"] + ": " + stored["origin"]).tolist()
    rows: list[tuple[Any, ...]] = []
    for m in matches:
        dropped = [path[row] for row in (m.left, m.right) if row in out]
        outcome = ("one group", f"{' '.join(dropped)} left out", "both left out")[len(dropped)]
        pair = (path[m.left], path[m.right], m.kind, m.distance, m.turned, label[m.left], label[m.right])
        conflict = label[m.left] != label[m.right]
        rows.append((*pair, conflict, outcome, origin[m.left], origin[m.right]))
    for row, (other, m) in shared.items():
        theirs, known = f"{other.name}: {other.paths[m.right]}", other.labels[m.right]
        pair = (path[row], theirs, m.kind, m.distance, m.turned, label[row], known)
        conflict = bool(known) and known != label[row]
        rows.append((*pair, conflict, f"{path[row]} left out", origin[row], theirs))
    return pd.DataFrame(rows, columns=list(DUPLICATE_COLUMNS))


def _write_notes(
    curated: CurationResult, stored: pd.DataFrame, accepted: pd.DataFrame, capped: pd.DataFrame
) -> list[str]:
    """Return notes on the duplicates, conflicts, empty sets and limits."""
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
    if len(capped) < len(accepted):
        before, after = (frame["label"].value_counts().sort_index() for frame in (accepted, capped))
        counts = ", ".join(f"{name} {before[name]} to {after.get(name, 0)}" for name in before.index)
        notes.append(f"capped: {counts}")
    return notes
