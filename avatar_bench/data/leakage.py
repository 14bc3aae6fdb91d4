"""Guards: what would void every figure of a training is refused, or put right and said, before it begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from numpy.typing import NDArray
from tqdm import tqdm

from avatar_bench import __version__
from avatar_bench.console.terminal import format_count
from avatar_bench.data.dataset import Dataset, hash_files, list_files
from avatar_bench.data.duplicates import Match, find_matches, find_matches_between, join_groups
from avatar_bench.data.file_names import format_names
from avatar_bench.data.fingerprints import (
    ORIENTATIONS,
    Fingerprint,
    fingerprint_files,
    read_fingerprints,
    write_fingerprints,
)
from avatar_bench.data.selection import (
    add_unlabelled_images,
    has_own_split,
    limit_rows,
    mark_divided_rows,
    split_dataset,
)
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import DataError, GuardError
from avatar_bench.files.paths import cache_root

MAX_FORMAT_ACCURACY, MIN_CLASS_IMAGES = (
    0.9,
    10,
)  # of formats that tell the class; the audit of prepare looks at much more
FINGERPRINT_FOLDER = "fingerprints"  # the cache's folder of them, some 200 bytes an image
MAX_LISTED_FILES = 20  # broken images that an error names
_FILES_PER_STEP = 512  # images between two moves of the progress bar


def split_without_leakage(whole: Dataset, plan: SplitPlan, allow: Collection[str], notes: list[str]) -> Dataset:
    """Give what `split_dataset` gives, no image with a copy or near-duplicate on another side.

    They are joined into groups, unless the data set states its split; then one across two sides raises GuardError, as
    an exact copy of another label does. The frame gets what `make_hash_columns` gives, and the group that was stated,
    `stated_group`. What the plan does not divide comes last, see `mark_divided_rows` and `add_unlabelled_images`.
    """
    rows, count = limit_rows(mark_divided_rows(plan, whole.frame), whole.frame, plan)
    drawn = whole.take(rows)  # a copy is matched with those before it
    prints = fingerprint_dataset(drawn)
    found = _tabulate_matches(find_matches(drawn.frame["sha256"].tolist(), prints, drawn.image))
    everything = drawn.frame.assign(
        **make_hash_columns(prints), stated_group=drawn.frame["group"], place=np.arange(len(drawn))
    )
    used = _split_divided_rows(
        Dataset(whole.name, whole.root, everything[:count]), found[found["right"] < count], plan, allow, notes
    )
    if count < len(drawn):
        joined = np.array(join_groups(everything["group"].tolist(), found[["left", "right"]].to_numpy()))
        others = everything[count:].assign(group=joined[count:])
        used = add_unlabelled_images(used, joined[used.frame["place"]], others, plan, notes)
    return Dataset(used.name, used.root, used.frame.drop(columns="place"))


def refuse_changed_files(dataset: Dataset) -> None:
    """Raise GuardError where an image is not the one whose SHA-256 the data set states."""
    found = hash_files(list_files(dataset))
    changed = [row for row, digest in enumerate(dataset.frame["sha256"]) if digest != found[row]]
    if changed:
        raise GuardError(
            f"{dataset.file(changed[0])} is not the image that it was: its SHA-256 is not the one that "
            f"{dataset.name} states ({format_count(len(changed), 'such image')}).",
            "Restore it; or build the data set anew (prepare update=true), so that its groups and copies are known.",
        )


def fingerprint_dataset(dataset: Dataset) -> list[Fingerprint]:
    """Give the fingerprint of each image, in order; raise one DataError for all that cannot be decoded.

    They are kept in the cache by what the files hold now: the same files need not be decoded for them again.
    """
    files = list_files(dataset)
    kept = (
        cache_root()
        / FINGERPRINT_FOLDER
        / hashlib.sha256(repr([__version__, PIL.__version__, *hash_files(files)]).encode()).hexdigest()[:32]
    )
    if (found := read_fingerprints(kept)) is not None:
        return found
    prints = _require_fingerprints(dataset, _fingerprint_all(files))
    with suppress(OSError):  # a full disk costs the time alone
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_fingerprints(prints, kept)
    return prints


def make_hash_columns(prints: Sequence[Fingerprint]) -> dict[str, list[str]]:
    """Give what tells near-duplicates of images: the perceptual hash, and those of the image turned, in a row."""
    return {
        "phash": [one.phashes[0] for one in prints],
        "turned_phashes": [" ".join(one.phashes[1:]) for one in prints],
    }


def _split_divided_rows(
    dataset: Dataset, matches: pd.DataFrame, plan: SplitPlan, allow: Collection[str], notes: list[str]
) -> Dataset:
    """Give the sides of images that the plan divides, whose places are their rows."""
    frame = dataset.frame
    if frame.empty:
        return dataset
    notes += _check_label_conflicts(frame, matches, "label_conflict" in allow)
    if not has_own_split(frame, plan):
        frame = frame.assign(group=join_groups(frame["group"].tolist(), matches[["left", "right"]].to_numpy()))
        if joined := frame["stated_group"].nunique() - frame["group"].nunique():
            verb = "is" if joined == 1 else "are"
            notes.append(
                f"{format_count(joined, 'group')} {verb} joined to others, as they hold near-duplicates of each other"
            )
    used = split_dataset(Dataset(dataset.name, dataset.root, frame), plan, notes)
    if "near_duplicates" not in allow:
        _refuse_split_duplicates(frame, used.frame.set_index("place")["split"], matches)
    return used


def _fingerprint_all(files: Sequence[Path]) -> list[Fingerprint | DataError]:
    prints = []
    with tqdm(total=len(files), desc="looking for copies", leave=False, disable=None) as bar:
        for start in range(0, len(files), _FILES_PER_STEP):
            prints += fingerprint_files(files[start : start + _FILES_PER_STEP])
            bar.update(len(prints) - bar.n)
    return prints


def _require_fingerprints(dataset: Dataset, prints: Sequence[Fingerprint | DataError]) -> list[Fingerprint]:
    """Give the fingerprints of a set; raise DataError where some images have none, naming them."""
    errors = {row: one for row, one in enumerate(prints) if isinstance(one, DataError)}
    for error in errors.values():
        if len(errors) == 1:
            raise error
        others = list(dataset.frame["path"].iloc[list(errors)])[1:]
        raise DataError(
            f"{len(errors)} of {len(dataset)} images of {dataset.name} cannot be used, first {error.lines[0]}",
            f"The others: {format_names(others, MAX_LISTED_FILES)}.",
            "Mend them or take them out: avatar-bench prepare leaves such files out, and says why of each.",
        )
    return [one for one in prints if isinstance(one, Fingerprint)]


def find_shared_images(train: Dataset, dataset: Dataset) -> list[Match]:
    """Give the copies in a set (right) of the images of a training (left), of which `make_hash_columns` may be known.

    Files of the training are read only where they are not, or where two images are to be compared. Of one that is
    gone, the upright hash is enough.
    """
    if not len(train):
        return []
    hashes = list(train.frame.reindex(columns=["phash", "turned_phashes"], fill_value="").itertuples(index=False))
    # an earlier version kept the upright hash alone, which has to do for all turns where the file is gone
    ours = [
        Fingerprint(f"not known: {row}", (phash, *(turned.split() or [phash] * (len(ORIENTATIONS) - 1))))
        for row, (phash, turned) in enumerate(hashes)
    ]
    unread = [
        row for row, (phash, turned) in enumerate(hashes) if not turned and (not phash or train.file(row).is_file())
    ]
    if unread:
        for row, one in zip(unread, fingerprint_dataset(train.take(np.array(unread))), strict=True):
            ours[row] = one
    return find_matches_between(
        (train.frame["sha256"].tolist(), ours, train.image),
        (dataset.frame["sha256"].tolist(), fingerprint_dataset(dataset), dataset.image),
    )


def refuse_shortcut(audit: Path, equalise: str | None) -> None:
    """Raise GuardError where the audit that `prepare` left says that the files tell the classes.

    With `equalise`, what it says of the equalised images counts.
    """
    try:
        provenance = json.loads((audit / "metrics.json").read_text(encoding="utf-8"))["provenance"]
        verdict = provenance["assessment"]
        equalised = provenance.get("equalised/assessment", verdict)
        no, still = (one["suitable"] == "no" for one in (verdict, equalised))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{audit / 'metrics.json'} cannot be read: {error}.", "Make it anew: prepare ... update=true"
        ) from error
    if not no or (equalise and not still):
        return
    reasons = (equalised if equalise else verdict).get("reasons") or ["see its card"]
    raise GuardError(
        f"This data set cannot answer the question: {reasons[0]}.",
        f"That is what its audit found ({audit}).",
        "Mend the data" + ("" if still else ", train with data.equalise=jpeg,") + " or say allow=[shortcut].",
    )


def refuse_format_shortcut(labels: pd.Series, formats: Sequence[str]) -> None:
    """Raise GuardError where the file format alone tells a class from the rest in SHARE of the cases or more.

    That is the balanced accuracy of the best rule: half of one more than the total variation distance between the
    formats of the class and of the other classes, each of equal weight. Classes of fewer than FEW images say nothing,
    nor do files of no known format, "".
    """
    kinds = np.asarray(formats)
    labels = labels[kinds != ""]
    shares = pd.crosstab(labels.to_numpy(), kinds[kinds != ""], normalize="index")
    others = (shares.sum() - shares) / max(1, len(shares) - 1)
    told = (1 + (shares - others).abs().sum(axis=1) / 2) / 2
    if len(shares) < 2 or told.max() < MAX_FORMAT_ACCURACY or labels.value_counts().min() < MIN_CLASS_IMAGES:
        return
    usual = ", ".join(f"{label} {row.idxmax()} {row.max():.0%}" for label, row in shares.iterrows())
    raise GuardError(
        f"The file format alone tells class {told.idxmax()!r} in {told.max():.0%} of the cases: {usual}.",
        "A network may learn that instead of the image, and fail where it does not hold.",
        "Train with data.equalise=jpeg, mend the data, or say allow=[shortcut].",
    )


def _tabulate_matches(matches: list[Match]) -> pd.DataFrame:
    return pd.DataFrame(matches, columns=Match._fields).astype({"left": np.intp, "right": np.intp})


def _check_label_conflicts(frame: pd.DataFrame, matches: pd.DataFrame, allowed: bool) -> list[str]:
    """Say which copies have two labels; raise GuardError where they are exact."""
    path, labels = frame["path"].tolist(), frame["label"].to_numpy()
    found = matches[labels[matches["left"]] != labels[matches["right"]]]
    exact = found[found["kind"] != "near"]
    told = found if exact.empty else exact
    if told.empty:
        return []
    left, right = (f"{path[row]} ({labels[row]})" for row in told[["left", "right"]].to_numpy()[0])
    if not exact.empty and not allowed:
        raise GuardError(
            f"{left} and {right} are one image ({format_count(len(exact), 'such pair')}).",
            "An image has one true class: take the wrong rows or files out, or say allow=[label_conflict].",
        )
    verb = "has" if len(found) == 1 else "have"
    pairs = f"{format_count(len(found), 'pair')} of copies or near-duplicates"
    return [f"{pairs} {verb} two labels, first {left} and {right}"]


def _refuse_split_duplicates(frame: pd.DataFrame, split: pd.Series, matches: pd.DataFrame) -> None:
    """Raise GuardError at two matching images on two sides; `split` holds the sides of those used, by place."""
    sides = split.replace("calibration", "val").reindex(range(len(frame))).to_numpy()
    left, right = sides[matches["left"]], sides[matches["right"]]
    across = matches[pd.notna(left) & pd.notna(right) & (left != right)]
    if across.empty:
        return
    path, first = frame["path"].tolist(), Match(*across.iloc[0])
    what = "near-duplicates" if first.kind == "near" else "one image"
    raise GuardError(
        f"{path[first.left]} ({sides[first.left]}) and {path[first.right]} ({sides[first.right]}) are {what}"
        f"{', the second ' + first.turned if first.turned else ''} ({format_count(len(across), 'such pair')}).",
        "The split that the data set states shows the network what it is judged on: mend it, split anew with",
        "data.split.by=group, or say allow=[near_duplicates].",
    )


def mark_shared_images(dataset: Dataset, other: Dataset) -> NDArray[np.bool_]:
    """Say which images of a dataset, (N,), are in another, as they are or as a near-duplicate, or of their groups.

    Near-duplicates are looked for of those whose files are there: these may have to be compared.
    """
    frame = dataset.frame
    known = {*other.frame["group"], *other.frame.get("stated_group", ())} - {""}
    shared = frame["sha256"].isin(set(other.frame["sha256"])) | frame["group"].isin(known)
    if "stated_group" in frame:
        shared |= frame["stated_group"].isin(known)
    found = shared.to_numpy(copy=True)
    found[[match.right for match in find_shared_images(other.available, dataset)]] = True
    return frame["group"].isin(set(frame["group"][found])).to_numpy()


def exclude_shared_images(dataset: Dataset, others: Mapping[str, Dataset]) -> tuple[Dataset, dict[str, int]]:
    """Give the images that none of several sets shares, and how many each set has taken out."""
    counts = {}
    for name, other in others.items():
        shared = mark_shared_images(dataset, other)
        counts[name] = int(shared.sum())
        dataset = dataset.take(~shared)
    return dataset, counts


def refuse_unknown_classes(dataset: Dataset, classes: Sequence[str]) -> None:
    """Raise GuardError where a label is not among the classes that a network knows."""
    unknown = sorted(set(dataset.classes) - set(classes))
    if unknown:
        raise GuardError(
            f"{dataset.name} has class {unknown[0]!r}, which this network does not know.",
            f"It knows: {', '.join(classes)}. Classes are matched by name:",
            "rename the folder or label, or leave those images out.",
        )


def refuse_overlap(dataset: Dataset, train: Dataset, what: str = "training") -> None:
    """Raise GuardError where a set holds images, or others of their groups, that a network was trained on.

    `what` names the step that saw them.
    """
    for column, known, by in (
        ("sha256", set(train.frame["sha256"]), "image"),
        ("group", {*train.frame["group"], *train.frame["stated_group"]} - {""}, "group"),
    ):
        shared = dataset.frame[column].isin(known)
        if shared.any():
            raise GuardError(
                f"{dataset.name} shares {int(shared.sum())} of {len(dataset)} images with the {what} data by "
                f"{by}, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                "Figures on images that the network has seen say nothing of new ones: take others out, or",
                "say allow=[overlap], which is written beside the figures.",
            )


def refuse_near_duplicates(dataset: Dataset, train: Dataset, what: str = "training") -> None:
    """Raise GuardError where a set holds near-duplicates of images that a network was trained on."""
    # copies of the bytes are for refuse_overlap to tell
    found = [match for match in find_shared_images(train, dataset) if match.kind != "bytes"]
    if found:
        copies = len({match.right for match in found})
        raise GuardError(
            f"{copies} of {len(dataset)} images of {dataset.name} are near-duplicates of {what} images, "
            f"first {dataset.frame['path'].iat[found[0].right]} of {train.frame['path'].iat[found[0].left]}.",
            "Figures on images that the network has seen say nothing of new ones: take them out, or",
            "say allow=[near_duplicates], which is written beside the figures.",
        )


def refuse_overlap_with_fit(dataset: Dataset, fitted: Dataset) -> None:
    """Raise GuardError where a set to be judged shares images or groups with those that something is fitted on."""
    for column in ("sha256", "group"):
        shared = dataset.frame[column].isin(set(fitted.frame[column]))
        if shared.any():
            raise GuardError(
                f"{int(shared.sum())} of {len(dataset)} images of {dataset.name} are among those that this block "
                f"is fitted on, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                "What is fitted on the images that it is judged by looks better than it is: choose split=test.",
            )
