"""Datasets by their kind in conf/data: folder, manifest or demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from avatar_bench.data.folders import is_plain
from avatar_bench.data.manifest import Dataset, read_dataset, read_folder, read_manifest, read_pictures
from avatar_bench.errors import ConfigError, DataError


class DataOptions(Protocol):
    """The options of conf/data that say which pictures are meant."""

    kind: str
    name: str | None
    root: str | None
    manifest: str | None
    sources: dict[str, Any]
    blind_sources: list[str]
    prepare: dict[str, Any]


def open_dataset(options: DataOptions) -> Dataset:
    """Read the pictures that the options name, whole; the demo is built on first use."""
    if options.kind == "folder" and options.root:
        return read_folder(Path(options.root), options.name)
    if options.kind == "manifest" and options.manifest:
        return read_manifest(Path(options.manifest), options.name)
    if options.kind == "demo":
        from avatar_bench.assembly.sources import ensure_demo  # slow to import, and no other kind needs it

        recipe = {name: getattr(options, name) for name in ("root", "sources", "blind_sources", "prepare")}
        return read_manifest(ensure_demo(recipe).out / "manifest.csv", options.name or "demo")
    raise ConfigError(
        f"data={options.kind} does not say where the pictures are.",
        "Expected data=folder data.root=DIR, or data=manifest data.manifest=FILE",
    )


def open_pictures(options: DataOptions) -> Dataset:
    """Read what `open_dataset` reads, and pictures of no known class: a manifest without labels, or a plain folder.

    A folder is plain where pictures lie directly in it, or it holds no folders; what lies below belongs to it.
    """
    if options.kind == "folder" and options.root and is_plain(Path(options.root)):
        return read_pictures(Path(options.root), options.name)
    if options.kind == "manifest" and options.manifest:
        return read_manifest(Path(options.manifest), options.name, needed=("path",))
    return open_dataset(options)


def open_set(path: Path, name: str) -> Dataset:
    """Read a further set of pictures, a folder or a manifest, labelled or not."""
    if not path.exists():
        option = "data.blind" if name == "blind" else f"data.ood.{name}"
        raise DataError(f"{option}: {path} does not exist.", "Expected a folder of pictures or a manifest.")
    return read_pictures(path, name) if is_plain(path) else read_dataset(path, name)


def blind_of(kind: str, blind: str | None, root: Path) -> Path | None:
    """Give where the blind set of a data set at `root` lies: as data.blind names it, or the demo's own; else None."""
    return Path(blind) if blind else root / "blind.csv" if kind == "demo" else None
