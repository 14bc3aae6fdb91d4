"""Splits into train, val, calibration and test by group, stratified by class and source, seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count, format_name
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.dates import AFTER, BEFORE, place_by_date
from avatar_bench.errors import CheckpointError, ConfigError, DataError, GuardError, suggest_names
from avatar_bench.files.hashes import sha256_of_text

if TYPE_CHECKING:
    from avatar_bench.config.schema import SplitDataConfig

DEFAULT_FOLDS = 10
IMBALANCE_TOLERANCE = 0.02  # deviation from the planned proportion of a class that is not reported
HOLD_OUT_UNITS = ("source", "generator")  # that can be held out
BY_DATE = "date"  # what is later is held out
HOLDING_OUT = (*HOLD_OUT_UNITS, BY_DATE)  # values of `by` that choose the images of test


@dataclass(frozen=True)
class SplitPlan:
    """Plan for dividing a dataset: fold `fold` of `folds` is test, the next one val, the rest train.

    `by` is "group", "source", "generator" or "date"; None means as the dataset states, else by group. By source or
    generator, test consists of all images of those in `held_out`, or of drawn ones; by date, of those later than
    `until`. `seed` fixes the folds and the draws of
    `limit`, `fraction` and `val_fraction`; `draw_seed` fixes the few-shot draw of `shots` images per class (`val_shots`
    for val), and that of `train_sources` sources per class, so that several draws share one test set. `units` names
    the sources or generators that are held out together. With `val_by` "source", val consists of whole sources.
    """

    seed: int = 0
    folds: int = DEFAULT_FOLDS
    fold: int = 0
    by: str | None = None
    held_out: tuple[str, ...] = ()
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)
    val_by: str | None = None
    train_sources: int | None = None
    fraction: float = 1.0
    val_fraction: float = 1.0
    limit: int | None = None
    shots: int | None = None
    val_shots: int | None = None
    draw_seed: int = 0
    until: str | None = None

    @classmethod
    def from_options(cls, data: SplitDataConfig, **draw: Any) -> SplitPlan:
        """Build the plan from the data options; `draw` holds the few-shot options, if any.

        Raise ConfigError for a split by date without its last date, or the reverse.
        """
        if (data.split.by == BY_DATE) != (data.split.until is not None):
            raise ConfigError(
                "data.split.by=date and data.split.until=DATE need each other.",
                "For example: data.split.by=date data.split.until=2024-06",
            )
        return cls(
            seed=data.split.seed,
            folds=data.split.folds,
            fold=data.fold,
            by=data.split.by,
            held_out=tuple(data.split.held_out),
            units=dict(data.split.units),
            val_by=data.split.val_by,
            train_sources=data.split.train_sources,
            fraction=data.fraction,
            val_fraction=data.val_fraction,
            limit=data.limit,
            until=data.split.until,
            **draw,
        )


def assign_splits(
    frame: pd.DataFrame, plan: SplitPlan, earlier: Mapping[str, tuple[str, int]] | None = None, option: str = "split"
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the split of each row (train, val or test) and its fold, -1 if test cannot rotate through the folds.

    A group in `earlier`, or one whose split `frame` states, keeps its side; the others go to the folds with the largest
    deficit. A row gets "" if its group mixes held-out rows, such as those of a source, with others. Raise ConfigError
    for an impossible plan, with options prefixed by `option`, and GuardError for a group that is stated on two sides.
    """
    stated = plan.by is None and bool((frame["split"] != "").any())
    fixed = stated or plan.by in HOLDING_OUT
    _check_plan(frame, plan, fixed, option)
    if plan.by in HOLD_OUT_UNITS:
        held_out = name_units(pd.Series(plan.held_out, dtype=object), plan.units)
        frame = frame.assign(**{plan.by: name_units(frame[plan.by], plan.units)})
        plan = replace(plan, held_out=tuple(held_out))
    allowed: dict[str, Sequence[int]] = {}
    if stated:
        pinned = frame[frame["split"] != ""]
        check_groups(pinned)
        sides = zip(pinned["group"], pinned["split"], strict=True)
        allowed = {group: _list_allowed_folds(split, plan.folds) for group, split in sides}
    allowed |= {group: _list_allowed_folds(split, plan.folds, fold) for group, (split, fold) in (earlier or {}).items()}
    left_out = np.zeros(len(frame), dtype=bool)
    if plan.by in HOLDING_OUT:
        is_held_out, is_free = _mark_held_out(frame, plan, earlier or {})
        left_out = _isolate_test_groups(frame["group"], is_held_out, is_free, allowed, plan.folds)
    fold = assign_folds(frame, plan.folds, plan.seed, allowed)
    split = np.full(len(frame), "train", dtype=object)
    split[fold == plan.fold] = "test"
    split[fold == (plan.fold + 1) % plan.folds] = "val"
    split[left_out] = ""
    return split, np.full(len(frame), -1) if fixed else fold


def find_units(units: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the unit of each source or generator that one of `units` lists."""
    return {str(name): unit for unit, members in units.items() for name in members}


def name_units(names: pd.Series, units: Mapping[str, Sequence[str]]) -> pd.Series:
    """Return the unit of each source or generator: that of `units` which lists it, else itself."""
    unit_of = find_units(units)
    return names.map(lambda name: unit_of.get(name, name))


def name_origins(frame: pd.DataFrame, units: Mapping[str, Sequence[str]]) -> pd.Series:
    """Return the stated origin that sources share, unless one source has several, else the unit; "" if unknown."""
    is_one = frame["origin"].groupby(frame["source"]).transform("nunique") == 1
    return frame["origin"].where((frame["origin"] != "") & is_one, name_units(frame["source"], units))


def hold_out_val_sources(frame: pd.DataFrame, plan: SplitPlan) -> NDArray[np.str_]:
    """Return the `split` of the rows with val drawn anew, outside test: whole sources, about 1/(folds - 1) of a class.

    A row gets "" if its group mixes rows of these sources with others. Raise DataError for a class of too few sources.
    """
    rest = ~frame["split"].isin(["test", ""])
    units, labels = name_units(frame["source"], plan.units), frame["label"]
    drawn = draw_held_out_units(units[rest], labels[rest], 1 / (plan.folds - 1), plan.seed)
    is_val = rest & units.isin(drawn)
    for label in sorted(set(labels[rest]) - set(labels[is_val])):
        names = sorted(set(units[rest & (labels == label)]) - {""})
        raise DataError(
            f"data.split.val_by=source: outside test, class {label!r} has too few sources to hold one out for val "
            f"({', '.join(names) or 'no image names its source'}).",
            "Expected two or more per class: add sources, or use data.split.val_by=group.",
        )
    mixed = rest & ~is_val & frame["group"].isin(set(frame["group"][is_val]))
    split = frame["split"].to_numpy(dtype=object, copy=True)
    split[rest], split[is_val], split[mixed] = "train", "val", ""
    return split


def mark_dated_rows(frame: pd.DataFrame, until: str, notes: list[str]) -> NDArray[np.bool_]:
    """Return which images, (N,), are known to be before or after the end of `until`; the number of others is noted.

    Raise DataError if there is none before or none after.
    """
    places = place_by_date(frame["date"], frame["released"], until)
    if missing := [f"none is {side}" for side in (BEFORE, AFTER) if not (places == side).any()]:
        dates = sorted(filter(None, frame["date"]))
        known = f"dates are {dates[0]} to {dates[-1]}" if dates else "no image has a date"
        of_all = f"of {format_count(len(frame), 'image')}"
        raise DataError(
            f"data.split.until={until}: {of_all}, {' and '.join(missing)} that ({known}).",
            "Expected dated images on both sides: add the column date to the manifest, or choose another date.",
        )
    unknown = places == ""
    if unknown.any():
        only_released = int((unknown & (frame["date"] == "") & (frame["released"] != "")).sum())
        notes.append(
            f"left out of train and test: {int(unknown.sum())} of {format_count(len(frame), 'image')}, which may be "
            f"before or after {until} (without a date: {int((unknown & (frame['date'] == '')).sum())}, of which "
            f"{only_released} of a generator that was released before)"
        )
    return (~unknown).to_numpy()


def describe_imbalance(frame: pd.DataFrame, folds: int = DEFAULT_FOLDS) -> list[str]:
    """Describe where the `split` lacks a class, or is 2 points off the plan's proportions, or a source is one group."""
    frame = frame[["label", "source", "group", "split"]]  # fewer columns, since each selection copies the table
    split = frame["split"].replace("calibration", "val")
    aims = {"train": 1 - 2 / folds, "val": 1 / folds, "test": 1 / folds}
    shares = pd.crosstab(frame["label"], split, normalize="index").reindex(columns=list(aims), fill_value=0)
    sentences = [
        _describe_class_imbalance(frame[frame["label"] == label], str(label), row, aims)
        for label, row in shares.iterrows()
    ]
    counts = frame["group"].groupby(frame["source"], observed=True).agg(["size", "nunique"])
    single = counts[(counts["size"] > 1) & (counts["nunique"] == 1)].drop(index="", errors="ignore")
    if len(single):
        listed = ", ".join(f"{name} ({size})" for name, size in single["size"].items())
        sentences.append(f"on one side only because each is a single group: {listed}")
    return [words for words in sentences if words]


def check_groups(frame: pd.DataFrame) -> None:
    """Raise GuardError if the images of one group are on two sides; calibration is a half of val."""
    halves = frame["split"].replace("calibration", "val")
    sides = halves.groupby(frame["group"]).nunique()
    if (sides > 1).any():
        group = str(sides.index[sides > 1][0])
        rows = frame.assign(split=halves)[frame["group"] == group].drop_duplicates("split")
        on_a, on_b = rows["split"].to_list()[:2]
        a, b = map(format_name, rows["path" if "path" in rows else "group"].to_list()[:2])
        shown = "" if group.startswith("sha256:") else f" ({format_name(group)!r})"  # one that copies have made
        raise GuardError(
            f"The dataset's own split has {a} in {on_a} and {b} in {on_b}, but they are of "
            f"one group{shown}, such as copies of one image.",
            "Move or remove one of them, or split the images again: data.split.by=group",
        )


def fingerprint_split(dataset: Dataset) -> str:
    """Return 16 hex digits that depend on the side of every image, but not on the order of rows."""
    rows = sorted(zip(dataset.frame["sha256"], dataset.frame["label"], dataset.frame["split"], strict=True))
    return sha256_of_text(repr(rows))[:16]


def refuse_changed_split(dataset: Dataset, stated: object, file: Path) -> None:
    """Raise CheckpointError if a run's split does not have the fingerprint that the run states."""
    if stated is not None and stated != fingerprint_split(dataset):
        reason = f"{file} is not the split that the run was trained with: it has been changed or damaged."
        raise CheckpointError(reason, "Restore it: without it the training images are unknown.")


def _check_plan(frame: pd.DataFrame, plan: SplitPlan, fixed: bool, option: str) -> None:
    if not 0 <= plan.fold < plan.folds or plan.folds < 3:
        reason = f"data.fold={plan.fold} with {option}.folds={plan.folds} is impossible."
        raise ConfigError(reason, "Expected at least 3 folds, and a fold from 0 to folds - 1.")
    if plan.fold and fixed:
        raise ConfigError(
            f"data.fold={plan.fold} requires folds by group, but here the test set is fixed.",
            f"Omit it or set {option}.by=group; {option}.held_out and {option}.seed change the test set.",
        )
    if plan.by in HOLD_OUT_UNITS:
        _check_units(frame, plan, option)
    elif plan.held_out:
        raise ConfigError(
            f"{option}.held_out names what to hold out for test: it requires {option}.by=source or generator."
        )


def _check_units(frame: pd.DataFrame, plan: SplitPlan, option: str) -> None:
    by, members = plan.by, [name for names in plan.units.values() for name in names]
    assert by is not None
    known = sorted(set(frame[by]) - {""})
    if not known:
        raise ConfigError(f"{option}.by={by}: no image names its {by}.", "Expected it in the manifest.")
    named = [("units", name, known) for name in members]
    for group, name, names in [*named, *(("held_out", name, [*known, *plan.units]) for name in plan.held_out)]:
        if name not in names:
            reason = f"{option}.{group}: no image has the {by} {name!r}{suggest_names(name, names)}"
            raise ConfigError(reason, f"There are: {', '.join(names)}.")


def _list_allowed_folds(split: str, folds: int, fold: int = -1) -> Sequence[int]:
    """Return the folds that an image of one side may be in."""
    return (fold,) if fold >= 0 else {"test": (0,), "train": range(2, folds)}.get(split, (1,))


def _mark_held_out(
    frame: pd.DataFrame, plan: SplitPlan, earlier: Mapping[str, tuple[str, int]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are held out, and which are of classes without units, where groups are held out instead."""
    assert plan.by is not None
    if plan.by == BY_DATE:
        is_later = place_by_date(frame["date"], frame["released"], str(plan.until)) == AFTER
        return is_later.to_numpy(), np.zeros(len(frame), dtype=bool)
    units, labels = frame[plan.by], frame["label"]
    free = (plan.by == "generator") & ~labels.isin(set(labels[units != ""]))
    names = set(plan.held_out)
    if not names and earlier:
        tested = [earlier.get(group, ("", -1))[0] == "test" for group in frame["group"]]
        names = set(units[tested]) - {""}
    elif not names:
        names = set(draw_held_out_units(units[~free], labels[~free], 1 / plan.folds, plan.seed))
    return units.isin(names).to_numpy(), free.to_numpy()


def _isolate_test_groups(
    groups: pd.Series,
    is_held_out: NDArray[np.bool_],
    is_free: NDArray[np.bool_],
    allowed: dict[str, Sequence[int]],
    folds: int,
) -> NDArray[np.bool_]:
    """Restrict fold 0 to held-out rows in `allowed`; return the rows that must be left out for this."""
    pinned = {group for group, places in allowed.items() if 0 not in places}
    test = set(groups[is_held_out]) - pinned
    for group in set(groups[~is_free]) - test:
        allowed.setdefault(group, range(1, folds))
    allowed |= dict.fromkeys(test, (0,))
    in_test = groups.isin(test).to_numpy()
    return in_test & ~is_held_out | is_held_out & ~in_test


def _describe_class_imbalance(rows: pd.DataFrame, label: str, shares: pd.Series, aims: Mapping[str, float]) -> str:
    """Describe the proportions of a class, or of unlabelled images, if they are off the plan; else return ""."""
    name = f"class {label}" if label else "the unlabelled part"
    if missing := [side for side in aims if not shares[side]]:
        sources = rows["source"].unique()
        why = f", because all of it is of one source ({sources[0]})" if len(sources) == 1 and sources[0] else ""
        return f"{' and '.join(missing)} lack{'s' * (len(missing) == 1)} {name}{why}"
    tolerance = max(IMBALANCE_TOLERANCE, 1 / len(rows)) + 1e-9  # one image cannot be divided
    if all(abs(shares[side] - aim) <= tolerance for side, aim in aims.items()):
        return ""
    parts = ("/".join(f"{100 * of[side]:.0f}" for side in aims) for of in (shares, aims))
    largest = int(rows["group"].value_counts().max())
    images = format_count(len(rows), "image")
    return f"{name} is {' instead of '.join(parts)} % in {'/'.join(aims)} ({images}, largest group {largest})"


MAX_TEST_RATIO = 1.5  # drawn size of a test set relative to the planned one, if smaller units are available


def assign_folds(
    frame: pd.DataFrame, folds: int, seed: int, allowed: Mapping[str, Sequence[int]] | None = None
) -> NDArray[np.int64]:
    """Return a fold for each row, 0 to folds - 1, of nearly equal size within each class and source.

    A group is never divided; `allowed` lists the folds open to a group, if not all. Such groups come first, then
    sources with large groups, and large groups before small ones. Each goes to the fold with the fewest images of its
    source, among the folds whose number of images of its class is within 1 % of the class size of the minimum.
    """
    rng = np.random.default_rng(seed)
    code_of, names = pd.factorize(frame["group"], sort=True)  # numbers need much less memory than names
    places = {code: allowed[name] for code, name in enumerate(names) if name in allowed} if allowed else {}
    coded = frame[["label", "source"]].assign(group=code_of)
    counted = coded.groupby(["group", "label", "source"], sort=True).size().reset_index(name="count")
    # of each group, its most frequent class and source
    main = counted.sort_values(["group", "count"], ascending=[True, False], kind="stable").drop_duplicates("group")
    groups = main.set_index("group").assign(size=coded.groupby("group").size())
    groups["order"] = rng.permutation(len(groups))
    groups["free"] = ~groups.index.isin(list(places))
    groups["largest"] = groups.groupby(["label", "source"])["size"].transform("max")
    keys = {"label": True, "free": True, "largest": False, "source": True, "size": False, "order": True}
    groups = groups.sort_values(list(keys), ascending=list(keys.values()))
    tie = rng.permutation(folds)  # so that small sources do not all start with fold 0
    every, fold_of = np.arange(folds), np.zeros(len(groups), dtype=np.int64)
    for _, of_class in groups.groupby("label", sort=True):
        in_class = np.zeros(folds, dtype=np.int64)
        in_sources = {source: np.zeros(folds, dtype=np.int64) for source in of_class["source"].unique()}
        slack = int(of_class["size"].sum()) // 100
        for group, source, size in zip(of_class.index, of_class["source"], of_class["size"], strict=True):
            may = np.asarray(places.get(group, every))
            in_source, so_far = in_sources[source], in_class[may]
            far = so_far > so_far.min() + slack
            fold = int(may[np.lexsort((tie[may], so_far, in_source[may], far))[0]])
            in_source[fold] += size
            in_class[fold] += size
            fold_of[group] = fold
    return fold_of[code_of]


def draw_held_out_units(units: pd.Series, labels: pd.Series, share: float, seed: int) -> tuple[str, ...]:
    """Draw whole units (not "") until they cover about `share` of each class, which keeps a row outside them."""
    counts = pd.crosstab(units.to_numpy(), labels.to_numpy())
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(counts.index.to_numpy()) if name]
    drawn: list[str] = []

    def can_go(unit: str) -> bool:
        left, mine = counts.drop(index=[*drawn, unit]).sum().to_numpy(), counts.loc[[unit]].to_numpy()[0]
        return unit not in drawn and bool((left[mine > 0] > 0).all())

    for label in counts.columns:
        sizes = counts[label].to_dict()
        target = share * sum(sizes.values())
        by_size = sorted((unit for unit in shuffled if sizes[unit]), key=lambda unit: sizes[unit])
        within = [(unit, MAX_TEST_RATIO * target) for unit in shuffled if sizes[unit]]
        for unit, most in [*within, *((unit, np.inf) for unit in by_size)]:
            taken = sum(sizes[name] for name in drawn)
            enough = taken >= (target if most < np.inf else target / 2)
            if not enough and taken + sizes[unit] <= most and can_go(unit):
                drawn.append(unit)
    return tuple(sorted(drawn))


def divide_units(frame: pd.DataFrame, by: str, parts: int, seed: int) -> list[list[str]]:
    """Divide the units of `by` at random into `parts` sorted lists with equally many of each class, to one."""
    units = frame.drop_duplicates(by)
    fold = assign_folds(pd.DataFrame({"label": units["label"], "source": "", "group": units[by]}), parts, seed)
    return [names for part in range(parts) if (names := sorted(map(str, units[by][fold == part])))]


def find_hold_out_units(frame: pd.DataFrame, by: str, at_least: int) -> tuple[list[str], dict[str, str]]:
    """Return the units of `by` ("source" or "generator") that can each be held out, sorted; the others with the reason.

    A unit needs `at_least` images, and every class must keep images without it. Raise DataError if none qualifies.
    """
    counts = frame[frame[by] != ""][by].value_counts()
    reasons = {
        str(name): format_count(count, "image") for name, count in counts.sort_index().items() if count < at_least
    }
    for label, rows in frame.groupby("label"):
        if rows[by].nunique() == 1 and (only := rows[by].iat[0]):
            reasons[str(only)] = f"all of class {label}"
    usable = sorted(set(map(str, counts.index)) - set(reasons))
    if not usable:
        why = ", ".join(f"{name} ({reason})" for name, reason in reasons.items()) or f"no image names its {by}"
        raise DataError(
            f"No {by} can be held out: {why}.",
            f"Expected at least {at_least} images per {by} (data.split.at_least) after data.limit, "
            "and other images of its class.",
        )
    return usable, reasons
