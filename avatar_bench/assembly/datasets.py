"""Datasets by their kind in conf/data: folder, manifest or demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from avatar_bench.data.manifest import Dataset, read_folder, read_manifest
from avatar_bench.errors import ConfigError


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
