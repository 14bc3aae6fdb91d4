"""Walks through folders of images, which tell what they cannot read."""

from __future__ import annotations

import os
from pathlib import Path

from avatar_bench.data.decoding import SUFFIXES
from avatar_bench.data.file_names import find_name_problem, format_name
from avatar_bench.errors import DataError


def list_class_folders(folder: Path) -> list[Path]:
    """Give the folders in one, sorted, without hidden ones, links to folders too; DataError where it cannot be read."""
    try:
        return sorted(child for child in folder.iterdir() if child.name[0] != "." and os.path.isdir(child))
    except OSError as error:
        raise DataError(f"{format_name(str(error.filename))}: cannot be read: {error.strerror}.") from error


def is_image_folder(folder: Path) -> bool:
    """Say whether a folder is one of images, and not of class folders: some lie in it, or it holds no folder."""
    if not os.path.isdir(folder):
        return False
    inside = [child for child in folder.iterdir() if child.name[0] != "."]
    images = (child.suffix.lower() in SUFFIXES and child.is_file() for child in inside)
    return any(images) or not any(child.is_dir() for child in inside)


def list_images(folder: Path) -> list[Path]:
    """Give what is named as an image below a folder, sorted, without hidden files and folders.

    Raise DataError at a folder that cannot be read, a name that no table can keep, what is named as an image and is no
    regular file, and at a link to a folder, which could lead anywhere, round in circles too.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if name[0] != "."]
        for link in (Path(place, name) for name in sorted(folders)):
            if link.is_symlink():
                raise DataError(
                    f"{format_name(str(link))}: a link to a folder, which is not followed below a class folder.",
                    "Make the class folder itself the link, move it out, or name its images in a manifest.",
                )
        found += [Path(place, name) for name in files if Path(name).suffix.lower() in SUFFIXES and name[0] != "."]
    for file in sorted(found):
        if why := find_name_problem(str(file)) or (
            "" if os.path.isfile(file) else "no regular file, or a link to nothing"
        ):
            raise DataError(f"{format_name(str(file))}: {why}.", "Rename it or move it out of the folder.")
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{format_name(str(error.filename))}: cannot be read: {error.strerror}.") from error
