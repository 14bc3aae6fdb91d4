"""Curation: the selection of stored images, their groups and their split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.duplicates import ImageSet, Match, find_matches, find_matches_between, join_groups, parse_hashes
from avatar_bench.data.splits import SplitPlan, assign_splits, describe_imbalance
from avatar_bench.files.hashes import sha256_of_text

SHARED_COLUMNS = ["label", "source", "recipe_source", "generator", "licence", "author", "format"]  # by many images
_DECIDING = [*SHARED_COLUMNS[:4], "origin", "group", "split", "origin_sha256"]  # columns that decide what is selected
_DECIDED = ["group", "stated_group", "split", "fold", "blind", "ood", "known"]
PathDecoder = Callable[[str], NDArray[np.uint8]]  # returns the image of a path
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
    plan: SplitPlan = field(default_factory=lambda: SplitPlan(by="group"))
    ood: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class CurationResult:
    """Accepted rows, refused ones with the reason, every match (of exact copies the first is accepted), and notes."""

    frame: pd.DataFrame
    refused: list[tuple[str, str]] = field(default_factory=list)
    duplicates: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(DUPLICATE_COLUMNS)))
    notes: list[str] = field(default_factory=list)


def curate(
    stored: pd.DataFrame,
    rules: CurationRules,
    image: PathDecoder,
    others: Sequence[OtherSet] = (),
    earlier: Sides | None = None,
) -> CurationResult:
    """Drop copies, label conflicts and images above a limit, join near-duplicates into groups, and split.

    `stored` has one row per image, `image` decodes the file of a path. `earlier` maps the images that an update may not
    move, including deleted ones, to their sides. Raise the errors of `splits.assign_splits`.
    """
    # few columns and no more variables than necessary, because each selection copies a table
    earlier = earlier or {}
    ranked = _rank(stored[_DECIDING], rules, earlier)
    ranks, paths = ranked["place"].to_numpy(), stored["path"]
    pixels, hashes = stored["pixels"].take(ranks), parse_hashes(stored["phashes"].take(ranks))
    images = ImageSet(ranked["origin_sha256"], pixels, hashes, lambda row: image(str(paths.iat[ranks[row]])))
    shared: dict[int, tuple[OtherSet, Match]] = {}  # the rows that are in another set too, with the first match
    for other in others:
        for match in find_matches_between(images, other.images):
            shared.setdefault(match.left, (other, match))
    upright = stored["phashes"].str.slice(0, 16)
    stored = stored.drop(columns=["pixels", "phashes", "group", "split"]).assign(phash=upright)
    curated = _select(stored, ranked, find_matches(images), shared, rules, earlier)
    del images, ranked, pixels, hashes
    selected = _split(rules.plan, earlier, curated)
    frame = stored.iloc[selected["place"]].reset_index(drop=True).join(selected[_DECIDED])
    curated.frame = frame.astype(dict.fromkeys(frame.select_dtypes("category"), str))
    return curated


def _select(
    stored: pd.DataFrame,
    ranked: pd.DataFrame,
    matches: Sequence[Match],
    shared: Mapping[int, tuple[OtherSet, Match]],
    rules: CurationRules,
    earlier: Sides,
) -> CurationResult:
    """Refuse images and join the groups of the others; the frame has these in the order of the stored images."""
    copies, refused = find_copies(ranked, matches)
    refused |= {row: f"is also in {other.name}: {other.paths[match.right]}" for row, (other, match) in shared.items()}
    refused |= find_moved_rows(ranked, earlier, copies | refused.keys())
    joined = join_matches(ranked, matches)
    refused |= find_mixed_groups(joined, copies | refused.keys())
    for among_new in (True, False):
        if bridging := find_bridging_rows(joined, earlier, copies | refused.keys(), among_new):
            refused |= bridging
            remaining = [match for match in matches if not {match.left, match.right} & refused.keys()]
            joined = join_matches(ranked, remaining)
    accepted = joined.drop(index=list(copies | refused.keys()))
    capped = _cap(accepted, stored["sha256"], rules)
    named = [(format_origin(ranked, row), reason) for row, reason in sorted(refused.items())]
    duplicates = _tabulate_duplicates(stored, ranked["place"], matches, copies | refused.keys(), shared)
    curated = CurationResult(capped.sort_values("place", ignore_index=True), named, duplicates)
    curated.notes = _write_notes(curated, ranked, accepted, capped)
    return curated


def _rank(images: pd.DataFrame, rules: CurationRules, earlier: Sides) -> pd.DataFrame:
    """Sort so that the accepted copy comes first: old images before new ones, training images before held-out ones.

    `blind` marks images that are held out of training, and `ood` names their out-of-domain set, "" if none. `known`
    marks images that were on this side before.
    """
    sets = {source: name for name, sources in rules.ood.items() for source in sources}
    named = zip(images["source"], images["recipe_source"], strict=True)
    ood = np.array([sets.get(set_name) or sets.get(recipe, "") for set_name, recipe in named], dtype=object)
    blind = images["source"].isin(rules.blind) | images["recipe_source"].isin(rules.blind) | (ood != "")
    before = [earlier[key][0] == BLIND_SIDE if key in earlier else None for key in images["origin_sha256"]]
    known = [was is not None and was == now for was, now in zip(before, blind, strict=True)]
    ranks = np.arange(len(images))
    marked = images.assign(blind=blind, ood=ood, known=known, place=ranks, stated_group=images["group"])
    return marked.sort_values(["known", "blind"], ascending=[False, True], kind="stable", ignore_index=True)


def _cap(accepted: pd.DataFrame, sha256s: pd.Series, rules: CurationRules) -> pd.DataFrame:
    """Limit the images of each source, then of each class; images of earlier builds come first."""
    if rules.per_source is None and rules.per_class is None:
        return accepted
    seed = rules.plan.seed  # the hash orders the images at random, reproducibly for each image
    drawn = [sha256_of_text(f"{seed}/{digest}") for digest in sha256s.iloc[accepted["place"]]]
    order = accepted.assign(_draw=drawn)
    for column, most in (("source", rules.per_source), ("label", rules.per_class)):
        if most is not None:
            order = order.sort_values(["known", "_draw"], ascending=[False, True])
            order = order[order["blind"] | (order.groupby([column, "blind"], observed=True).cumcount() < most)]
    return accepted.loc[order.index.sort_values()]


def _split(plan: SplitPlan, earlier: Sides, curated: CurationResult) -> pd.DataFrame:
    """Assign split and fold to each training row; rows that fit on no side are refused."""
    blind = curated.frame["blind"]
    frame = curated.frame.assign(fold="", split=curated.frame["split"].mask(blind, ""))
    rows = frame[["label", "source", "generator", "group", "split"]][~blind]
    if rows.empty:
        return frame
    if plan.by == "group" and (rows["split"] != "").any():
        plan = replace(plan, by=None)  # keep the split that a source states
    so_far = collect_sides(frame[~blind], earlier) if earlier else {}
    sides = {group: sides_of_group[0] for group, sides_of_group in so_far.items() if sides_of_group}
    split, fold = assign_splits(rows, plan, sides)
    if any(side >= 0 for _, side in sides.values()) and (fold < 0).all():
        curated.notes.append("a source now states its split, so there are no folds: data.fold of train has no effect")
    rows = rows.assign(split=split)
    frame.loc[rows.index, "split"] = split
    frame.loc[rows.index, "fold"] = [str(number) if number >= 0 else "" for number in fold]
    lost = rows.index[rows["split"] == ""]
    reason = f"shares a group with a held-out {plan.by}"
    curated.refused += [(format_origin(frame, row), reason) for row in lost]
    curated.notes += [f"split: {words}" for words in describe_imbalance(rows.drop(index=lost), plan.folds)]
    return frame.drop(index=lost).reset_index(drop=True) if len(lost) else frame


def _tabulate_duplicates(
    stored: pd.DataFrame,
    places: pd.Series,
    matches: Sequence[Match],
    out: Set[int],
    shared: Mapping[int, tuple[OtherSet, Match]],
) -> pd.DataFrame:
    named = np.unique([row for match in matches for row in (match.left, match.right)] + list(shared)).astype(np.intp)
    images = stored.iloc[places.iloc[named]]
    path, label = (dict(zip(named.tolist(), images[column], strict=True)) for column in ("path", "label"))
    origins = zip(images["recipe_source"], images["origin"], strict=True)
    origin = {row: f"{source}: {file}" for row, (source, file) in zip(named.tolist(), origins, strict=True)}
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
    curated: CurationResult, ranked: pd.DataFrame, accepted: pd.DataFrame, capped: pd.DataFrame
) -> list[str]:
    table, notes = curated.duplicates, []
    for kind, count in table["kind"].value_counts(sort=False).items():
        notes.append(f"duplicates ({kind}): {count}; see duplicates.csv")
    if conflicts := int(table["conflict"].sum()):
        first = table[table["conflict"]].iloc[0]
        notes.append(
            f"warning: label conflicts: {conflicts}, first {first['left_origin']} ({first['left_label']}) and "
            f"{first['right_origin']} ({first['right_label']})"
        )
    for name in sorted(set(ranked["ood"][ranked["blind"]]) - set(capped["ood"][capped["blind"]])):
        what = f"the out-of-domain set {name}" if name else "the blind sources"
        notes.append(f"warning: no image of {what} is left: see quarantine.csv")
    if len(capped) < len(accepted):
        before, after = (frame["label"].value_counts().sort_index() for frame in (accepted, capped))
        counts = ", ".join(f"{name} {before[name]} to {after.get(name, 0)}" for name in before.index)
        notes.append(f"capped: {counts}")
    return notes


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
    copies: set[int] = set()
    refused: dict[int, str] = {}
    label = stored["label"].tolist()
    for _, cluster in pd.Series(linked).groupby(names, sort=False):
        rows = cluster.tolist()
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
    """Return the rows to refuse in groups on both sides of training: the oldest image's side wins, then training."""
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
    """Return the rows to refuse in groups on two sides: the new ones (`among_new`), else those unlike the first."""
    if not earlier:
        return {}
    staying = joined[_SIDE_COLUMNS].drop(index=list(out))
    sides = collect_sides(staying, earlier)
    joining = staying[
        staying["group"].isin({group for group, sides_of_group in sides.items() if len(sides_of_group) > 1})
    ]
    if among_new:
        rows = joining.index[~joining["known"]]
    else:
        former = joining["origin_sha256"].map(lambda key: earlier.get(key))
        rows = joining.index[former != former.groupby(joining["group"]).transform("first")]
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
