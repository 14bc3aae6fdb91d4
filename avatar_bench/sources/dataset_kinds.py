"""Datasets by their kind in conf/data: folder, manifest, shards or demo."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.overrides import quote
from avatar_bench.console.terminal import format_name, print_note
from avatar_bench.data.dataset import Dataset, make_ood_path, read_dataset, read_folder, read_images, read_manifest
from avatar_bench.data.folders import is_image_folder, list_class_folders
from avatar_bench.data.leakage import drop_unreadable
from avatar_bench.data.selection import limit_rows, mark_divided_rows
from avatar_bench.data.shards import open_shards
from avatar_bench.data.splits import SplitPlan, divide_units, find_hold_out_units, name_units
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import find_table
from avatar_bench.runs.record import RESERVED_SET_NAMES

if TYPE_CHECKING:
    from avatar_bench.config.schema import ImagesConfig, ImageSetConfig, SplitDataConfig

_DEMO_OPTIONS = ("root", "sources", "blind_sources", "ood_sources", "prepare")  # that define the demo


def open_dataset(options: ImageSetConfig, skip_missing: bool = False) -> Dataset:
    """Read all images that the options specify, of a manifest perhaps those that are there; the demo is built once."""
    if options.kind == "folder" and options.root:
        return read_folder(Path(options.root), options.name)
    if options.kind == "manifest" and options.manifest:
        return read_manifest(Path(options.manifest), options.name, skip_missing=skip_missing)
    if options.kind == "shards" and options.shards:
        return open_shards(options.shards, options.name, options.shards_gb)
    if options.kind == "demo":
        from avatar_bench.sources.build import ensure_demo  # slow import, needed by this kind only

        recipe = {name: getattr(options, name) for name in _DEMO_OPTIONS}
        return read_manifest(ensure_demo(recipe).out / "manifest.csv", options.name or "demo")
    raise ConfigError(
        f"data={options.kind} does not specify the images.",
        "Expected data=folder data.root=DIR, data=manifest data.manifest=FILE, or data=shards data.shards=DIR",
    )


def open_labelled(options: ImageSetConfig, classes: Mapping[str, str], allow: Collection[str]) -> Dataset:
    """Read as `open_dataset` does, with labels renamed; with "missing_files", without images that cannot be read.

    Raise ConfigError for a label to rename that no image has.
    """
    skips = "missing_files" in allow
    dataset = open_dataset(options, skips)
    if unknown := sorted(set(classes) - set(dataset.classes)):
        has = ", ".join(map(format_name, dataset.classes))
        raise ConfigError(f"data.classes: no image of {dataset.name} has the label {unknown[0]!r}.", f"It has {has}.")
    if skips and options.kind != "shards":
        dataset = drop_unreadable(dataset)
    return replace(dataset, frame=dataset.frame.replace({"label": dict(classes)}))


def open_images(options: ImageSetConfig) -> Dataset:
    """Read as `open_dataset` does, and also unlabelled images, in a manifest or a folder without class folders."""
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


def list_further_sets(options: ImagesConfig, root: Path | None = None) -> dict[str, Path]:
    """Return the sets beside the dataset at `root`, by name: the demo's own and those in the options, with "blind".

    Raise DataError if data.ood_root cannot be read, ConfigError if a folder in it is no valid set name.
    """
    sets: dict[str, Path] = {}
    if options.kind == "demo" and root is not None:
        sets["blind"] = find_table(root / "blind.csv")
        sets |= {name: find_table(make_ood_path(root, name)) for name in options.ood_sources}
    if options.blind:
        sets["blind"] = Path(options.blind)
    for folder in list_class_folders(Path(options.ood_root)) if options.ood_root else ():
        if folder.name in RESERVED_SET_NAMES or make_folder_name(folder.name) != folder.name:
            raise ConfigError(
                f"data.ood_root={options.ood_root}: {folder.name!r} is not a valid name for an out-of-domain set.",
                f"Rename the folder: use letters and digits, and none of {', '.join(RESERVED_SET_NAMES)}.",
            )
        sets[folder.name] = folder
    return sets | {name: Path(path) for name, path in options.ood.items()}


def list_units_to_hold_out(options: SplitDataConfig, by: str, parts: int | None = None) -> str:
    """Return the values of data.split.held_out for a sweep over units, [a],[b], after data.limit is applied.

    With `parts`, the units are divided into as many lists, [a,b],[c,d], with equally many of each class, to one.
    """
    frame = open_dataset(options).frame
    plan = SplitPlan(seed=options.split.seed, by=by, limit=options.limit)
    rows, _ = limit_rows(mark_divided_rows(plan, frame), frame, plan)
    drawn = f" (of {len(rows)} images drawn, data.limit)" if len(rows) < len(frame) else ""
    frame = frame.iloc[rows].assign(**{by: name_units(frame[by].iloc[rows], options.split.units)})
    kept, reasons = find_hold_out_units(frame, by, options.split.at_least)
    if reasons:
        skipped = ", ".join(f"{name} ({why})" for name, why in reasons.items())
        print_note(f"not held out{drawn}: {skipped}")
    usable = frame[frame[by].isin(kept)]
    lists = [[name] for name in kept] if parts is None else divide_units(usable, by, parts, plan.seed)
    return ",".join(f"[{','.join(map(quote, names))}]" for names in lists)
