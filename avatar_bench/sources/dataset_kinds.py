"""Datasets by their kind in conf/data: folder, manifest or demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from avatar_bench.data.dataset import Dataset, read_dataset, read_folder, read_images, read_manifest
from avatar_bench.data.folders import is_image_folder, list_class_folders
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.paths import make_folder_name
from avatar_bench.runs.record import RESERVED_SET_NAMES

OOD_PREFIX = "ood_"  # before the name of an out-of-domain set
_DEMO_OPTIONS = ("root", "sources", "blind_sources", "ood_sources", "prepare")  # of the demo


class DataOptions(Protocol):
    """The options of conf/data that say which images are meant."""

    kind: str
    name: str | None
    root: str | None
    manifest: str | None
    sources: dict[str, Any]
    blind_sources: list[str]
    ood_sources: dict[str, list[str]]
    prepare: dict[str, Any]
    blind: str | None
    ood: dict[str, str]
    ood_root: str | None


def open_dataset(options: DataOptions) -> Dataset:
    """Read the images that the options name, whole; the demo is built on first use."""
    if options.kind == "folder" and options.root:
        return read_folder(Path(options.root), options.name)
    if options.kind == "manifest" and options.manifest:
        return read_manifest(Path(options.manifest), options.name)
    if options.kind == "demo":
        from avatar_bench.sources.build import ensure_demo  # slow to import, and no other kind needs it

        recipe = {name: getattr(options, name) for name in _DEMO_OPTIONS}
        return read_manifest(ensure_demo(recipe).out / "manifest.csv", options.name or "demo")
    raise ConfigError(
        f"data={options.kind} does not say where the images are.",
        "Expected data=folder data.root=DIR, or data=manifest data.manifest=FILE",
    )


def open_images(options: DataOptions) -> Dataset:
    """Read what `open_dataset` reads, and images of no known class: a manifest without labels, or a plain folder.

    A folder is plain where images lie directly in it, or it holds no folders; what lies below belongs to it.
    """
    if options.kind == "folder" and options.root and is_image_folder(Path(options.root)):
        return read_images(Path(options.root), options.name)
    if options.kind == "manifest" and options.manifest:
        return read_manifest(Path(options.manifest), options.name, needed=("path",))
    return open_dataset(options)


def open_further_set(path: Path, name: str) -> Dataset:
    """Read a further set of images, a folder or a manifest, labelled or not."""
    if not path.exists():
        option = "data.blind" if name == "blind" else f"data.ood.{name}"
        raise DataError(f"{option}: {path} does not exist.", "Expected a folder of images or a manifest.")
    return read_images(path, name) if is_image_folder(path) else read_dataset(path, name)


def make_ood_path(root: Path, name: str) -> Path:
    """Return where a data set keeps the manifest of an out-of-domain set: beside the others, as paths are relative."""
    return root / f"{OOD_PREFIX}{name}.csv"


def list_further_sets(options: DataOptions, root: Path | None = None) -> dict[str, Path]:
    """Return the sets beside the data set at `root`: the demo's own, and those that the options name; "blind" is one.

    Raise DataError where data.ood_root cannot be read, ConfigError where a folder in it cannot name a set.
    """
    found: dict[str, Path] = {}
    if options.kind == "demo" and root is not None:
        found["blind"] = root / "blind.csv"
        found |= {name: make_ood_path(root, name) for name in options.ood_sources}
    if options.blind:
        found["blind"] = Path(options.blind)
    for folder in list_class_folders(Path(options.ood_root)) if options.ood_root else ():
        if folder.name in RESERVED_SET_NAMES or make_folder_name(folder.name) != folder.name:
            raise ConfigError(
                f"data.ood_root={options.ood_root}: {folder.name!r} cannot be the name of an out-of-domain set.",
                f"Rename the folder: letters and digits, and none of {', '.join(RESERVED_SET_NAMES)}.",
            )
        found[folder.name] = folder
    return found | {name: Path(path) for name, path in options.ood.items()}
