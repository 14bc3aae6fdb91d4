"""Guards against leakage and shortcuts, which would invalidate every metric of a training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from numpy.typing import NDArray

from avatar_bench import __version__
from avatar_bench.console.progress import open_bar
from avatar_bench.console.terminal import format_count, format_names
from avatar_bench.data import fingerprints, selection
from avatar_bench.data.dataset import Dataset, hash_files, list_files
from avatar_bench.data.duplicates import ImageSet, Match, find_matches, find_matches_between, join_groups
from avatar_bench.data.fingerprints import ORIENTATIONS, Fingerprint
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import DataError, GuardError, suggest_names
from avatar_bench.files.document import read_json
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.paths import cache_root
from avatar_bench.results.reasons import Reason, format_reason

MAX_FORMAT_ACCURACY, MIN_CLASS_IMAGES = 0.9, 10  # of the check of file formats; the audit of prepare checks much more
FINGERPRINT_FOLDER = "fingerprints"  # in the cache; some 200 bytes per image
MAX_LISTED_FILES = 20  # in an error message
MAX_LISTED_COPIES = 50  # who has to remove them needs their names
_FILES_PER_STEP = 512  # between updates of the progress bar

# returns the copies in a set (right) that only an alignment with known images (left) shows, or why it did not run
AlignedSearch = Callable[[Dataset, Dataset], list[Match] | Reason]


def split_without_leakage(whole: Dataset, plan: SplitPlan, allow: Collection[str], notes: list[str]) -> Dataset:
    """Split as `split_dataset` does, with no image whose copy or near-duplicate is on another side.

    Copies are joined into groups unless the dataset states its split; then a pair across two sides raises GuardError,
    as does an exact copy with another label. The frame gains the columns of `make_hash_columns` and the group as
    stated, `stated_group`. Images that the plan does not divide are added last.
    """
    if "turned_phashes" in whole.frame:  # in shards, see `join_copies`
        return selection.split_dataset(whole, plan, notes)
    rows, count = selection.limit_rows(selection.mark_divided_rows(plan, whole.frame), whole.frame, plan)
    drawn = whole.take(rows)  # copies match earlier images
    prints, matches = match_copies(drawn)
    everything = drawn.frame.assign(
        **make_hash_columns(prints), stated_group=drawn.frame["group"], place=np.arange(len(drawn))
    )
    divided = Dataset(whole.name, whole.root, everything[:count])
    used = _split_divided_rows(divided, matches[matches["right"] < count], plan, allow, notes)
    if count < len(drawn):
        joined = join_groups(everything["group"], matches[["left", "right"]].to_numpy()).to_numpy()
        others = everything[count:].assign(group=joined[count:])
        used = selection.add_unlabelled_images(used, joined[used.frame["place"]], others, plan, notes)
    return Dataset(used.name, used.root, used.frame.drop(columns="place"))


def join_copies(dataset: Dataset) -> Dataset:
    """Return a data set with its hashes and joined groups; raise GuardError for a group on two sides, or two labels."""
    frame, (prints, matches) = dataset.frame, match_copies(dataset)
    _check_label_conflicts(frame, matches, allowed=False)
    _refuse_split_duplicates(frame, frame["split"].replace("", None), matches)
    return group_copies(dataset, prints, matches)


def match_copies(dataset: Dataset) -> tuple[list[Fingerprint], pd.DataFrame]:
    """Return the fingerprints of images, and their copies and near-duplicates among each other: a row for a Match."""
    prints = fingerprint_dataset(dataset)
    matches = find_matches(ImageSet.of(dataset.frame["sha256"], prints, dataset.image))
    return prints, pd.DataFrame(matches, columns=Match._fields).astype({"left": np.intp, "right": np.intp})


def group_copies(dataset: Dataset, prints: Sequence[Fingerprint], matches: pd.DataFrame) -> Dataset:
    """Return images, without origin, with their hashes; those that match share a group, the stated one is kept."""
    frame = dataset.frame
    groups = join_groups(frame["group"], matches[["left", "right"]].to_numpy()).to_numpy()
    joined = frame.assign(**make_hash_columns(prints), stated_group=frame["group"], group=groups)
    return Dataset(dataset.name, dataset.root, joined)


def refuse_changed_files(dataset: Dataset) -> None:
    """Raise GuardError if a file's SHA-256 differs from the one in the dataset."""
    digests = hash_files(list_files(dataset))
    changed = [row for row, digest in enumerate(dataset.frame["sha256"]) if digest != digests[row]]
    if changed:
        raise GuardError(
            f"{dataset.file(changed[0])} has changed: its SHA-256 differs from the one "
            f"in {dataset.name} ({format_count(len(changed), 'such image')}).",
            "Restore it, or rebuild the data set (prepare update=true) to update its groups and copies.",
        )


def drop_unreadable(dataset: Dataset) -> Dataset:
    """Return the images of a data set that can be decoded."""
    readable = np.array([not isinstance(seen, DataError) for seen in _fingerprint_or_explain(dataset)])
    if not readable.any():
        fingerprint_dataset(dataset)  # which explains it
    return dataset if readable.all() else dataset.take(readable).count_missing(int((~readable).sum()))


def fingerprint_dataset(dataset: Dataset) -> list[Fingerprint]:
    """Compute the fingerprint of each image, unless it is cached; raise one DataError for all that are unreadable."""
    hashed = _fingerprint_or_explain(dataset)
    errors = {row: error for row, error in enumerate(hashed) if isinstance(error, DataError)}
    if errors:
        first, *others = errors
        if not others:
            raise errors[first]
        names = format_names(dataset.frame["path"].iloc[others].tolist(), MAX_LISTED_FILES)
        raise DataError(
            f"{len(errors)} of {len(dataset)} images of {dataset.name} cannot be used, first {errors[first].lines[0]}",
            f"The others: {names}.",
            "Repair or remove them; avatar-bench prepare skips such files and lists the reasons.",
        )
    return [fingerprint for fingerprint in hashed if isinstance(fingerprint, Fingerprint)]


def _fingerprint_or_explain(dataset: Dataset) -> Sequence[Fingerprint | DataError]:
    """Return the fingerprint of each image, or why it has none; cached where all have one."""
    files = list_files(dataset)
    key = sha256_of_bytes(repr([__version__, PIL.__version__, *hash_files(files)]).encode())[:32]
    cache_file = cache_root() / FINGERPRINT_FOLDER / key
    if (cached := fingerprints.read_fingerprints(cache_file)) is not None:
        return cached
    hashed: list[Fingerprint | DataError] = []
    with open_bar("search for copies", len(files)) as bar:
        for start in range(0, len(files), _FILES_PER_STEP):
            hashed += fingerprints.fingerprint_files(files[start : start + _FILES_PER_STEP])
            bar.update(len(hashed) - bar.n)
    prints = [fingerprint for fingerprint in hashed if isinstance(fingerprint, Fingerprint)]
    if len(prints) == len(hashed):
        with suppress(OSError):  # a full disk only costs time
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            fingerprints.write_fingerprints(prints, cache_file)
    return hashed


def make_hash_columns(prints: Sequence[Fingerprint]) -> dict[str, list[str]]:
    """Return the perceptual hash of each image and, joined by spaces, those of its other orientations."""
    return {
        "phash": [fingerprint.phashes[0] for fingerprint in prints],
        "turned_phashes": [" ".join(fingerprint.phashes[1:]) for fingerprint in prints],
    }


def _split_divided_rows(
    dataset: Dataset, matches: pd.DataFrame, plan: SplitPlan, allow: Collection[str], notes: list[str]
) -> Dataset:
    """Split the images that the plan divides; their places equal their rows."""
    frame = dataset.frame
    if frame.empty:
        return dataset
    notes += _check_label_conflicts(frame, matches, "label_conflict" in allow)
    if not selection.has_own_split(frame, plan):
        frame = frame.assign(group=join_groups(frame["group"], matches[["left", "right"]].to_numpy()).to_numpy())
        if joined := frame["stated_group"].nunique() - frame["group"].nunique():
            verb = "is" if joined == 1 else "are"
            notes.append(f"{format_count(joined, 'group')} {verb} joined to others because of near-duplicates")
    used = selection.split_dataset(Dataset(dataset.name, dataset.root, frame), plan, notes)
    if "near_duplicates" not in allow:
        _refuse_split_duplicates(frame, used.frame.set_index("place")["split"], matches)
    return used


def find_shared_images(train: Dataset, dataset: Dataset) -> list[Match]:
    """Find the copies in a dataset (right) of training images (left), which are read if their hashes are unknown."""
    if not len(train):
        return []
    hashes = list(train.frame.reindex(columns=["phash", "turned_phashes"], fill_value="").itertuples(index=False))
    # earlier versions kept only the upright hash, which stands in for all orientations if the file is missing
    ours = [
        Fingerprint(f"not known: {row}", (phash, *(turned.split() or [phash] * (len(ORIENTATIONS) - 1))))
        for row, (phash, turned) in enumerate(hashes)
    ]
    unread = [
        row for row, (phash, turned) in enumerate(hashes) if not turned and (not phash or train.file(row).is_file())
    ]
    if unread:
        for row, fingerprint in zip(unread, fingerprint_dataset(train.take(np.array(unread))), strict=True):
            ours[row] = fingerprint
    return find_matches_between(
        ImageSet.of(train.frame["sha256"], ours, train.image),
        ImageSet.of(dataset.frame["sha256"], fingerprint_dataset(dataset), dataset.image),
    )


def refuse_shortcut(audit: Path, equalise: str | None) -> None:
    """Raise GuardError if by the audit of `prepare` file properties, equalised if asked, reveal the classes."""
    try:
        provenance = read_json(audit / "metrics.json")["provenance"]
        stored = provenance["assessment"]
        equalised = provenance.get("equalised/assessment", stored)
        is_unsuitable, is_unsuitable_equalised = (assessment["suitable"] == "no" for assessment in (stored, equalised))
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{audit / 'metrics.json'} cannot be read: {error}.", "Rebuild it: prepare ... update=true"
        ) from error
    if not is_unsuitable or (equalise and not is_unsuitable_equalised):
        return
    equalising = "" if is_unsuitable_equalised else ", train with data.equalise=jpeg,"
    reason = next(iter((equalised if equalise else stored).get("reasons", [])), None)
    why = format_reason(Reason.parse(reason), "data_audit") if isinstance(reason, dict) else "see its card"
    raise GuardError(
        f"This data set is not suitable for training: {why}.",
        f"See its audit ({audit}).",
        f"Correct the data{equalising} or set allow=[shortcut].",
    )


def refuse_format_shortcut(labels: pd.Series, formats: Sequence[str]) -> None:
    """Raise GuardError if the file format separates a class from the rest with MAX_FORMAT_ACCURACY or more.

    This is the balanced accuracy of the best rule: (1 + d) / 2, where d is the total variation distance between the
    formats of the class and those of the other classes, each class weighted equally. Unknown formats, "", are ignored.
    """
    kinds = np.asarray(formats)
    labels = labels[kinds != ""]
    shares = pd.crosstab(labels.to_numpy(), kinds[kinds != ""], normalize="index")
    others = (shares.sum() - shares) / max(1, len(shares) - 1)
    accuracy = (1 + (shares - others).abs().sum(axis=1) / 2) / 2
    if len(shares) < 2 or accuracy.max() < MAX_FORMAT_ACCURACY or labels.value_counts().min() < MIN_CLASS_IMAGES:
        return
    usual = ", ".join(f"{label} {row.idxmax()} {row.max():.0%}" for label, row in shares.iterrows())
    raise GuardError(
        f"The file format alone identifies class {accuracy.idxmax()!r} in {accuracy.max():.0%} of cases: {usual}.",
        "A network may learn the format instead of the content, and fail on other files.",
        "Train with data.equalise=jpeg, correct the data, or set allow=[shortcut].",
    )


def _check_label_conflicts(frame: pd.DataFrame, matches: pd.DataFrame, allowed: bool) -> list[str]:
    """Describe the copies with two labels; raise GuardError if any of them are exact."""
    path, labels = frame["path"].tolist(), frame["label"].to_numpy()
    conflicts = matches[labels[matches["left"]] != labels[matches["right"]]]
    exact = conflicts[conflicts["kind"] != "near"]
    reported = conflicts if exact.empty else exact
    if reported.empty:
        return []
    left, right = (f"{path[row]} ({labels[row]})" for row in reported[["left", "right"]].to_numpy()[0])
    if not exact.empty and not allowed:
        raise GuardError(
            f"{left} and {right} are the same image ({format_count(len(exact), 'such pair')}).",
            "An image has one true class: remove the incorrect rows or files, or set allow=[label_conflict].",
        )
    verb = "has" if len(conflicts) == 1 else "have"
    pairs = f"{format_count(len(conflicts), 'pair')} of copies or near-duplicates"
    return [f"{pairs} {verb} different labels, first {left} and {right}"]


def _refuse_split_duplicates(frame: pd.DataFrame, split: pd.Series, matches: pd.DataFrame) -> None:
    """Raise GuardError if two matching images are on two sides; `split` has the sides of used images, by place."""
    sides = split.replace("calibration", "val").reindex(range(len(frame))).to_numpy()
    left, right = sides[matches["left"]], sides[matches["right"]]
    across = matches[pd.notna(left) & pd.notna(right) & (left != right)]
    if across.empty:
        return
    path, first = frame["path"].tolist(), Match(*across.iloc[0])
    what = "near-duplicates" if first.kind == "near" else "the same image"
    raise GuardError(
        f"{path[first.left]} ({sides[first.left]}) and {path[first.right]} ({sides[first.right]}) are {what}"
        f"{', the second ' + first.turned if first.turned else ''} ({format_count(len(across), 'such pair')}).",
        "The data set's own split leaks images between its sides: correct it, split again with",
        "data.split.by=group, or set allow=[near_duplicates].",
    )


def mark_shared_images(dataset: Dataset, other: Dataset) -> NDArray[np.bool_]:
    """Return which images, (N,), are in another set, as copies, near-duplicates of its files, or of its groups."""
    frame = dataset.frame
    known = {*other.frame["group"], *other.frame.get("stated_group", ())} - {""}
    shared = frame["sha256"].isin(set(other.frame["sha256"])) | frame["group"].isin(known)
    if "stated_group" in frame:
        shared |= frame["stated_group"].isin(known)
    is_shared = shared.to_numpy(copy=True)
    is_shared[[match.right for match in find_shared_images(other.available, dataset)]] = True
    return frame["group"].isin(set(frame["group"][is_shared])).to_numpy()


@dataclass(frozen=True)
class UsedImages:
    """Images that the training of one network has used, with their splits, and those of its pretraining, if known.

    `foreign` are those of a detector made elsewhere, `calibration` those that `calibrate` was fitted on; some files of
    both may be missing. `is_val_used` says whether the val images chose something, such as the epoch.
    """

    classes: tuple[str, ...]
    images: Dataset | None = None
    pretraining: Dataset | None = None
    foreign: Dataset | None = None
    calibration: Dataset | None = None
    is_val_used: bool = True


@dataclass(eq=False, repr=False)
class Leakage:
    """Guard that refuses data sets with images that training has used, of one network or of an ensemble's members.

    `own` are the images of runs with their splits, in which a data set may be held out. `allow` names guards that the
    user has turned off. `search` finds copies as avatars undergo them; None: they are not searched for.
    """

    used: Sequence[UsedImages]
    own: Sequence[Dataset]
    allow: Collection[str]
    search: AlignedSearch | None = None
    # by fingerprint, of the search for aligned copies
    _warnings: dict[str, list[Reason]] = field(default_factory=dict, init=False)
    _checked: set[tuple[int, str, str]] = field(default_factory=set, init=False)  # network, step, set: no duplicates
    _held_out: dict[tuple[Path, str], bool] = field(default_factory=dict, init=False)  # by root and digest
    _counts: dict[tuple[str, Path, str], int] = field(default_factory=dict, init=False)  # by use, root and digest

    def refuse(self, dataset: Dataset, is_training: bool = False, is_fitting: bool = False) -> None:
        """Raise GuardError if a dataset has unknown classes, or images, groups or near-duplicates of used images.

        `is_training`: it is the run's own training images, for statistics; `is_fitting`: the calibration half of val.
        Overlap of pretraining with val and calibration is allowed, because `train` has warned of it.
        """
        for number, network in enumerate(self.used):
            _refuse_unknown_classes(dataset, network.classes)
            if network.foreign is not None:
                self._refuse_step(dataset, network.foreign, "detector training", number)
            if network.calibration is not None and not (is_training or is_fitting):
                self._refuse_step(dataset, network.calibration, "calibration", number)
            if network.images is None or is_training:
                continue
            self._refuse_step(dataset, network.images.select_split("train"), "training", number)
            if network.pretraining is not None and not self.is_held_out(dataset):
                self._refuse_step(dataset, network.pretraining, "pretraining", number)

    def is_held_out(self, dataset: Dataset) -> bool:
        """Return whether all images of a dataset are in the val and calibration images of a run; computed once."""
        key = dataset.root, dataset.digest
        if key not in self._held_out:
            self._held_out[key] = any(_is_held_out_in(dataset, images) for images in self.own)
        return self._held_out[key]

    def count_pretraining_overlap(self, dataset: Dataset) -> int:
        """Count images that overlap with pretraining data where allowed: in val, or with a guard turned off; else 0."""
        if not self.is_held_out(dataset) and {"overlap", "near_duplicates"}.isdisjoint(self.allow):
            return 0
        known = (network.pretraining for network in self.used if network.pretraining is not None)
        return self._count_shared_images(dataset, known, "pretraining")

    def count_val_overlap(self, dataset: Dataset) -> int:
        """Count the images of a dataset that overlap with val images, which chose the epoch of a network."""
        used = (network.images for network in self.used if network.images is not None and network.is_val_used)
        return self._count_shared_images(dataset, (images.select_split("val") for images in used), "val")

    def _count_shared_images(self, dataset: Dataset, used: Iterable[Dataset], use: str) -> int:
        """Count the images of a dataset that overlap with any of the used ones, once; see `mark_shared_images`."""
        key = use, dataset.root, dataset.digest
        if key not in self._counts:
            self._counts[key] = int(np.any([mark_shared_images(dataset, images) for images in used], axis=0).sum())
        return self._counts[key]

    def refuse_overlap_with_fit(self, dataset: Dataset, fitted: Dataset) -> None:
        """Raise GuardError if an evaluated set has images, groups or near-duplicates of what a block is fitted on."""
        if (overlap := _find_overlap(dataset, fitted)) is not None:
            shared = overlap[1]
            raise GuardError(
                f"{int(shared.sum())} of {len(dataset)} images of {dataset.name} are also in the set that this "
                f"block is fitted on, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                "Evaluating on the fitting images overestimates the result: choose split=test.",
            )
        key = 0, f"fit on {fitted.fingerprint}", dataset.fingerprint
        if "near_duplicates" not in self.allow and key not in self._checked:
            images = fitted.available
            _refuse_near_duplicates(dataset, images, _find_near_duplicates(images, dataset), "calibration")
            self._checked.add(key)

    def _refuse_step(self, dataset: Dataset, used: Dataset, step: str, network: int) -> None:
        """Raise GuardError if a dataset overlaps with the images of a step, or warn of it if that is allowed.

        Near-duplicates are searched once.
        """
        warnings = self._warnings.setdefault(dataset.fingerprint, [])
        if (overlap := _find_overlap(dataset, used)) is not None:
            by, shared = overlap
            if "overlap" not in self.allow:
                raise GuardError(
                    f"{dataset.name} shares {int(shared.sum())} of {len(dataset)} images with the {step} data by "
                    f"{by}, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                    "Metrics on training images do not estimate performance on new ones: remove shared images, or",
                    "set allow=[overlap], which is reported with the metrics.",
                )
            if step != "pretraining":  # see count_pretraining_overlap
                warnings.append(Reason("overlap_allowed", n=int(shared.sum()), all=len(dataset)))
        key = network, step, dataset.fingerprint
        is_allowed = "near_duplicates" in self.allow
        if key in self._checked or (is_allowed and step == "pretraining"):
            return
        # missing training images raise an error, missing pretraining images a warning in the result
        known = used if step == "training" and not is_allowed else used.available
        matches = _find_near_duplicates(known, dataset)
        if self.search is not None:
            matches += self._find_aligned_copies(dataset, used, self.search)
        if matches and is_allowed:
            copies = {match.right for match in matches}
            warnings.append(Reason("near_duplicates_allowed", n=len(copies), all=len(dataset)))
        else:
            _refuse_near_duplicates(dataset, known, matches, step)
        self._checked.add(key)

    def list_warnings(self, dataset: Dataset) -> list[Reason]:
        """Return the overlap of a dataset that was allowed, and what the search for aligned copies says of it."""
        return self._warnings.get(dataset.fingerprint, [])

    def _find_aligned_copies(self, dataset: Dataset, used: Dataset, search: AlignedSearch) -> list[Match]:
        """Return the aligned copies in a dataset; those of the run's own images are a warning instead.

        `train` joins no groups by them, so a new split would not always be possible.
        """
        known, warnings = used.available, self._warnings.setdefault(dataset.fingerprint, [])
        if missing := len(used) - len(known):
            warnings.append(Reason("not_aligned", why=Reason("missing_to_align", n=missing)))
        matches = search(known, dataset) if len(known) else []
        if isinstance(matches, Reason):
            warnings.append(Reason("not_aligned", why=matches))
            return []
        sets = (set(images.frame["sha256"]) for images in self.own)
        if matches and any(dataset.frame["sha256"].isin(hashes).all() for hashes in sets):
            first, original = dataset.frame["path"].iat[matches[0].right], known.frame["path"].iat[matches[0].left]
            count = len({match.right for match in matches})
            warnings.append(Reason("copies_across_split", n=count, all=len(dataset), first=first, other=original))
            return []
        return list(matches)


def _is_held_out_in(dataset: Dataset, images: Dataset) -> bool:
    if dataset.root != images.root:
        return False
    held_out = images.frame[images.frame["split"].isin(["val", "calibration"])]
    keys, held_out_keys = (pd.MultiIndex.from_frame(frame[["path", "sha256"]]) for frame in (dataset.frame, held_out))
    return bool(keys.isin(held_out_keys).all())


def _refuse_unknown_classes(dataset: Dataset, classes: Sequence[str]) -> None:
    unknown = sorted(set(dataset.classes) - set(classes))
    if unknown:
        raise GuardError(
            f"{dataset.name} has class {unknown[0]!r}, which this network does not know"
            + suggest_names(unknown[0], classes),
            f"It knows: {', '.join(classes)}. Say which it is, 'data.classes={{LABEL: {classes[0]}}}', or remove these",
            "images. For an imported detector, say what its classes are: import 'classes={fake: generated, ...}'",
        )


def _find_overlap(dataset: Dataset, used: Dataset) -> tuple[str, pd.Series] | None:
    """Return by what a dataset overlaps with used images, "image" or "group", and which of its images do, (N,)."""
    groups = {*used.frame["group"], *used.frame.get("stated_group", ())} - {""}
    for column, known, by in (("sha256", set(used.frame["sha256"]), "image"), ("group", groups, "group")):
        shared = dataset.frame[column].isin(known)
        if shared.any():
            return by, shared
    return None


def _find_near_duplicates(known: Dataset, dataset: Dataset) -> list[Match]:
    """Return the matches of a dataset's images that are no byte copies, which other guards report."""
    return [match for match in find_shared_images(known, dataset) if match.kind != "bytes"]


def _refuse_near_duplicates(dataset: Dataset, train: Dataset, matches: Sequence[Match], step: str) -> None:
    """Raise GuardError if there are near-duplicates in a dataset of the images of a training step."""
    if matches:
        copies = dataset.frame["path"].iloc[sorted({match.right for match in matches})].tolist()
        raise GuardError(
            f"{len(copies)} of {len(dataset)} images of {dataset.name} are near-duplicates of {step} images, "
            f"first {dataset.frame['path'].iat[matches[0].right]} of {train.frame['path'].iat[matches[0].left]}.",
            *([f"They are: {format_names(copies, MAX_LISTED_COPIES)}."] if len(copies) > 1 else []),
            "Remove them, as they do not estimate performance on new images, or set allow=[near_duplicates], "
            "which is reported with the metrics.",
        )
