"""The files of a data set that prepare writes, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.assembly.curation import EXACT, Curated, Sides
from avatar_bench.assembly.readers.base import Source

COLUMNS = (
    *("path", "label", "source", "generator", "group", "split", "fold", "sha256", "phash", "width", "height"),
    *("format", "jpeg_quality", "licence", "author", "url", "origin"),
)
DESCRIPTION = ("licence", "author", "generator", "homepage")  # what every source says of itself


@dataclass(frozen=True)
class Summary:
    """Say what a data set holds: images a class, in-domain and blind; `built` is False where it was there before."""

    out: Path
    counts: dict[str, int]
    blind: dict[str, int]
    quarantined: int
    copies: int
    built: bool

    def __str__(self) -> str:
        said = "wrote" if self.built else "already complete:"
        parts = [f"{_counted(self.counts)}; blind set: {_counted(self.blind) or 'none'}"]
        parts += [f"{self.quarantined} in quarantine"] * bool(self.quarantined)
        parts += [f"exact copies left out: {self.copies}"] * bool(self.copies)
        return f"{said} {self.out}: {'; '.join(parts)}"


def read_recipe(out: Path) -> dict[str, Any] | None:
    """Give what a finished data set was built from; None where there is none."""
    try:
        return dict(json.loads((out / "recipe.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_recipe(out: Path, recipe: Mapping[str, Any]) -> None:
    """Say that the data set is finished, and what it was built from."""
    _write_text(out / "recipe.json", json.dumps(recipe, indent=1, ensure_ascii=False) + "\n")


def read_sides(out: Path) -> Sides:
    """Give split and fold of each picture, by source and origin, that a data set has had so far."""
    file = out / "manifest.csv"
    if not file.is_file():
        return {}
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    sides = [(split, int(fold or -1)) for split, fold in zip(table["split"], table["fold"], strict=True)]
    return dict(zip(zip(table["source"], table["origin"], strict=True), sides, strict=True))


def write_tables(out: Path, sources: Mapping[str, Source], curated: Curated) -> None:
    """Write manifest.csv, blind.csv, sources.csv, duplicates.csv and quarantine.csv."""
    frame = curated.frame.assign(phash=[phashes[0] for phashes in curated.frame["phashes"]])
    for file, rows in (("manifest.csv", ~frame["blind"]), ("blind.csv", frame["blind"])):
        _write_table(out / file, frame.loc[rows, list(COLUMNS)])
    _write_table(out / "sources.csv", _describe(frame, sources))
    _write_table(out / "duplicates.csv", curated.duplicates)
    _write_table(out / "quarantine.csv", pd.DataFrame(curated.refused, columns=["file", "reason"]))


def _describe(frame: pd.DataFrame, sources: Mapping[str, Source]) -> pd.DataFrame:
    """Give each source, by class, with its count and what it says of itself."""
    counts = frame.groupby(["source", "label", "recipe_source", "blind"], sort=True).size().reset_index(name="count")
    for key in DESCRIPTION:
        counts[key] = [sources[name][key] for name in counts["recipe_source"]]
    return counts[["source", "label", "count", *DESCRIPTION, "blind"]]


def _write_table(file: Path, table: pd.DataFrame) -> None:
    _write_text(file, table.to_csv(index=False))


def _write_text(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def summarise(out: Path, built: bool) -> Summary:
    """Count what a data set holds, from its files."""
    counts = [pd.read_csv(out / file)["label"].value_counts(sort=False) for file in ("manifest.csv", "blind.csv")]
    seen, blind = ({str(label): int(number) for label, number in count.sort_index().items()} for count in counts)
    pairs = pd.read_csv(out / "duplicates.csv")
    copies = pairs["kind"].isin(EXACT) & ~pairs["conflict"].astype(bool)
    return Summary(out, seen, blind, len(pd.read_csv(out / "quarantine.csv")), int(copies.sum()), built)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {label}" for label, number in counts.items())
