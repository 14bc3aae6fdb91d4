"""Traversal of image folders, with an error for everything that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from avatar_bench.console.terminal import format_name, format_names, print_note
from avatar_bench.data.decoding import SUFFIXES
from avatar_bench.errors import DataError

SPLIT_FOLDERS = ("train", "val", "test")
# of runs, also those that begin, and results, whose figures are no images of a data set
OWN_RECORDS = ("run.json", "metrics.json", "run.lock")
_LISTED = SUFFIXES | {".heic", ".heif"}  # which is refused by name, not left out without a word
_OTHER_SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


def find_split_folders(root: Path) -> list[str]:
    """Return the SPLIT_FOLDERS that are not empty; raise DataError for one that is spelled otherwise."""
    folders = list_class_folders(root)
    for folder in folders:
        split = _OTHER_SPELLINGS.get(folder.name.lower(), folder.name.lower())
        if split in SPLIT_FOLDERS and split != folder.name and (inside := list_class_folders(folder)):
            raise DataError(
                f"{folder} looks like a split, with folders such as {format_name(inside[0].name)}; here its name is "
                f"{split}.",
                f"Rename it to {split}, take one of them alone (root={folder}), or state the split in a manifest.",
            )
    splits = [folder.name for folder in folders if folder.name in SPLIT_FOLDERS and any(folder.iterdir())]
    return [split for split in SPLIT_FOLDERS if split in splits]


def refuse_other_folders(root: Path, splits: list[str]) -> None:
    """Raise DataError for a folder with images beside those of splits, which would be left out."""
    others = [folder for folder in list_class_folders(root) if folder.name not in SPLIT_FOLDERS] if splits else []
    if left_out := next(filter(list_images, others), None):
        raise DataError(
            f"{root} has images in {format_name(left_out.name)} beside those of {splits[0]}.",
            f"Move them into {splits[0]}, take one folder alone (root={root / splits[0]}), or state the split in a "
            "manifest.",
        )


def list_class_folders(folder: Path) -> list[Path]:
    """Return the sorted folders in one, links included, hidden ones excluded; raise DataError if it cannot be read."""
    try:
        return sorted(child for child in folder.iterdir() if child.name[0] != "." and os.path.isdir(child))
    except OSError as error:
        raise DataError(f"{format_name(str(error.filename))}: cannot be read: {error.strerror}.") from error


def is_image_folder(folder: Path) -> bool:
    """Return whether a folder contains images directly, or no folders at all, as opposed to class folders."""
    if not os.path.isdir(folder):
        return False
    inside = [child for child in folder.iterdir() if child.name[0] != "."]
    images = (child.suffix.lower() in SUFFIXES and child.is_file() for child in inside)
    return any(images) or not any(child.is_dir() for child in inside)


def list_images(folder: Path, skipped: list[str] | None = None) -> list[Path]:
    """Return the sorted files below a folder with an image suffix, without what is hidden and our own runs.

    These, and results, are added to `skipped`, with a note. Raise DataError for what cannot be read, is no regular file
    or a link to a folder, and for a name that a CSV cannot store.
    """
    images, skipped = [], [] if skipped is None else skipped
    known = len(skipped)
    for path, folders, files in os.walk(folder, onerror=raise_unreadable):
        if not set(OWN_RECORDS).isdisjoint(files):
            skipped.append(path)
            folders.clear()
            continue
        folders[:] = [name for name in folders if name[0] != "."]
        for link in (Path(path, name) for name in sorted(folders)):
            if link.is_symlink():
                raise DataError(
                    f"{format_name(str(link))}: links to folders are not followed below a class folder.",
                    "Make the class folder itself the link, move the link out, or list its images in a manifest.",
                )
        images += [Path(path, name) for name in files if Path(name).suffix.lower() in _LISTED and name[0] != "."]
    if skipped[known:]:
        print_note(f"left out, as runs or results of avatar-bench: {format_names(sorted(skipped[known:]), 3)}")
    for file in sorted(images):
        if why := find_name_problem(str(file)) or (
            "" if os.path.isfile(file) else "not a regular file, or a broken link"
        ):
            raise DataError(f"{format_name(str(file))}: {why}.", "Rename it or move it out of the folder.")
    return sorted(images)


def raise_unreadable(error: OSError) -> None:
    """Raise DataError for a folder that `os.walk` cannot read, of which it says nothing otherwise."""
    raise DataError(f"{format_name(str(error.filename))}: cannot be read: {error.strerror}.") from error


def find_name_problem(name: str) -> str:
    """Return why a UTF-8 CSV cannot store a name, or ""."""
    if "\r" in name:
        return "its name contains a carriage return"
    return "its name is not UTF-8" if name.encode(errors="replace").decode() != name else ""
