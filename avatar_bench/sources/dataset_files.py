"""Files of a prepared dataset, each written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.data.dataset import OOD_PREFIX, make_ood_path
from avatar_bench.files.table_io import read_csv, read_table, write_table
from avatar_bench.sources.curation import BLIND_SIDE, EXACT_KINDS, GROUP_PREFIX, CurationResult, Sides
from avatar_bench.sources.reader import DESCRIPTION_KEYS, Source

MANIFEST_COLUMNS = (
    *("path", "label", "source", "generator", "group", "split", "fold", "sha256", "phash", "width", "height"),
    *("format", "jpeg_quality", "date", "date_from", "released", "licence", "author", "url", "source_file"),
)
RECIPE_FILE, RECIPE_KEYS = "recipe.json", ("version", "recipe", "states")  # written last: it marks a finished set
WORK_FOLDER = ".prepare"  # journals, downloads, sides and the lock
SIDES_FILE = f"{WORK_FOLDER}/sides.csv"
DESCRIPTION_COLUMNS = DESCRIPTION_KEYS[1:]  # without the label, which images may state themselves


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers of images of a dataset that was `built` now or before; `removed`: no longer in their source."""

    out: Path
    counts: dict[str, int]
    blind: dict[str, int]
    ood: dict[str, int]
    quarantined: int
    copies: int
    built: bool
    removed: int = 0

    def __str__(self) -> str:
        prefix = "wrote" if self.built else "already complete:"
        parts = [f"{_format_counts(self.counts)}; blind set: {_format_counts(self.blind) or 'none'}"]
        parts += [f"out of domain: {_format_counts(self.ood)}"] * bool(self.ood)
        parts += [f"{self.quarantined} in quarantine"] * bool(self.quarantined)
        parts += [f"exact copies left out: {self.copies}"] * bool(self.copies)
        parts += [f"removed, no longer in the sources: {self.removed}"] * bool(self.removed)
        return f"{prefix} {self.out}: {'; '.join(parts)}"


def read_recipe(out: Path) -> dict[str, Any] | None:
    """Return the recipe of a finished dataset; None if there is none."""
    try:
        return dict(json.loads((out / RECIPE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_sides(out: Path) -> Sides:
    """Return the side of every image that a dataset has contained so far."""
    if not (out / SIDES_FILE).is_file():
        return {}
    table = read_csv(out / SIDES_FILE, dtype={"key": str, "split": str, "fold": int}, keep_default_na=False)
    return {key: (split, fold) for key, split, fold in table.itertuples(index=False)}


def has_all_images(out: Path) -> bool:
    """Return whether every image listed in the tables of a dataset exists."""
    files = [out / "manifest.csv", out / "blind.csv", *list_ood_files(out).values()]
    tables = [read_table(file, ["path"], texts=None) for file in files]
    return all((out / path).is_file() for table in tables for path in table["path"])


def list_ood_files(out: Path) -> dict[str, Path]:
    """Return the manifests of the out-of-domain sets of a dataset, by name."""
    files = sorted([*out.glob(f"{OOD_PREFIX}*.csv"), *out.glob(f"{OOD_PREFIX}*.parquet")])
    return {file.stem.removeprefix(OOD_PREFIX): file for file in files}


def write_tables(out: Path, sources: Mapping[str, Source], curated: CurationResult, earlier: Sides) -> None:
    """Write manifest.csv, blind.csv, ood_<name>.csv, the tables about them, and the sides for a later update."""
    frame = curated.frame.rename(columns={"origin": "source_file"})  # `origin` of a manifest joins sources
    for file in list_ood_files(out).values():
        file.unlink()  # of an earlier recipe
    inside, names = frame["ood"] == "", sorted(set(frame["ood"]) - {""})
    parts = {out / "manifest.csv": ~frame["blind"], out / "blind.csv": frame["blind"] & inside}
    parts |= {make_ood_path(out, name): frame["ood"] == name for name in names}
    for path, rows in parts.items():
        write_table(frame.loc[rows, list(MANIFEST_COLUMNS)], path)
    (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    write_table(_tabulate_sides(frame, earlier), out / SIDES_FILE)
    write_table(_describe_sources(frame, sources), out / "sources.csv")
    write_table(curated.duplicates, out / "duplicates.csv")
    write_table(pd.DataFrame(curated.refused, columns=["file", "reason"]), out / "quarantine.csv")


def _describe_sources(frame: pd.DataFrame, sources: Mapping[str, Source]) -> pd.DataFrame:
    """Return each source and class with its count, its description and the set that it is held out for."""
    frame = frame.assign(blind=frame["blind"] & (frame["ood"] == ""))
    keys = ["source", "label", "recipe_source", "blind", "ood"]
    counts = frame.groupby(keys, sort=True).size().reset_index(name="count")
    for key in DESCRIPTION_COLUMNS:
        counts[key] = [sources[name][key] for name in counts["recipe_source"]]
    return counts[["source", "label", "count", *DESCRIPTION_COLUMNS, "blind", "ood"]]


def _tabulate_sides(frame: pd.DataFrame, earlier: Sides) -> pd.DataFrame:
    """Return the side of each image and stated group, including deleted ones: if they return, they keep it."""
    before = pd.DataFrame([(key, *side) for key, side in earlier.items()], columns=["key", "split", "fold"])
    split, fold = frame["split"].mask(frame["blind"], BLIND_SIDE), frame["fold"].replace("", "-1").astype(int)
    sides = pd.DataFrame({"key": GROUP_PREFIX + frame["stated_group"], "split": split, "fold": fold})
    is_alone = frame["stated_group"] == frame["source"] + ":" + frame["source_file"]
    tables = [before, sides[~is_alone], sides.assign(key=frame["origin_sha256"])]
    return pd.concat(tables).drop_duplicates("key", keep="last").sort_values("key", ignore_index=True)


def summarise_dataset(out: Path, built: bool) -> DatasetSummary:
    """Count the images of a dataset from its files."""
    labels = (read_table(out / file, ["label"], texts=None)["label"] for file in ("manifest.csv", "blind.csv"))
    seen, blind = ({str(label): int(n) for label, n in column.value_counts().sort_index().items()} for column in labels)
    ood = {name: len(read_table(file, ["path"], texts=None)) for name, file in list_ood_files(out).items()}
    pairs = read_csv(out / "duplicates.csv")
    copies = pairs["kind"].isin(EXACT_KINDS) & ~pairs["conflict"].astype(bool)
    return DatasetSummary(out, seen, blind, ood, len(read_csv(out / "quarantine.csv")), int(copies.sum()), built)


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {label}" for label, number in counts.items())
