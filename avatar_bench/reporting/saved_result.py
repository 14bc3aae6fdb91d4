"""Saved results: reading a result from its folder, with tables, figures and problems."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from avatar_bench.files.output_folder import refuse_outward_links
from avatar_bench.files.table_io import read_table
from avatar_bench.i18n import _, get_language
from avatar_bench.results.declaration import Declaration, TableDeclaration, declare_block
from avatar_bench.results.result import METRICS_FILE, MetricsFile, Result, locate_figure
from avatar_bench.results.view import ALL, View

MAX_SHOWN_ROWS = 60  # rows of a table shown in the page; longer tables are linked
_MOST_CURVE_ROWS = 50_000


@dataclass(frozen=True)
class SavedResult:
    """Result with its folder, the names of all files saved with it, and those that are missing now.

    Its set is named as its folder is, with the view.
    """

    folder: Path
    result: Result
    files: tuple[str, ...]
    missing_files: tuple[str, ...]

    @cached_property
    def declaration(self) -> Declaration:
        """Return what is known of its block; each reading searches the folders of blocks."""
        return declare_block(self.result.block)

    def find_figure(self, name: str) -> Path:
        """Return the file of a figure, without suffix, in the current language, or else in English."""
        file = locate_figure(self.folder, name, get_language())
        return file if file.with_name(f"{file.name}.png").is_file() else self.folder / name

    @property
    def image_folders(self) -> dict[str, int]:
        """Return the number of images in each of its image folders."""
        return Counter(str(Path(name).parent) for name in self.files if "/" in name and name not in self.missing_files)

    @property
    def view(self) -> str:
        """Return the name of the view of its classes."""
        return str(self.result.provenance.get("view", ALL))

    @property
    def merged_classes(self) -> dict[str, list[str]]:
        """Return the classes that each class of the view merges, {} where every class is as it is."""
        return dict(self.result.provenance.get("view_classes") or {})

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the evaluated images, or ""."""
        return str(self.result.provenance.get("data_fingerprint", ""))


@dataclass(frozen=True)
class Problem:
    """Unfinished, missing, damaged or foreign item (`kind`), with its folder, reason and `model`."""

    kind: str
    folder: Path
    why: str
    model: str = ""

    def locate(self, root: Path) -> str:
        """Return the path of its folder relative to `root`."""
        return Path(os.path.relpath(self.folder, root)).as_posix()


def read_saved(folder: Path, compares: bool = False) -> SavedResult | Problem:
    """Read the result in a folder with the tables to show, or return the Problem why it cannot be read."""
    try:
        saved = MetricsFile.read(folder)
        files = saved.files
        missing = tuple(name for name in files if not (folder / name).is_file())
        tables = [name for name in files if name.endswith((".csv", ".parquet")) and name not in missing]
        declared = declare_block(folder.name).tables
        curves = {Path(name).stem: name for name in tables if declared.get(Path(name).stem, TableDeclaration()).sliders}
        if not compares:
            shown = {name for name, table in declared.items() if table.shown}
            tables = [name for name in tables if Path(name).stem in shown]
        result = Result.parse(saved)
        result.set = View(str(result.provenance.get("view", ALL))).name_set(result.set)
        result.tables = {Path(name).stem: read_table(folder / name, rows=MAX_SHOWN_ROWS + 1) for name in tables}
        result.tables |= {name: _read_curves(folder / file) for name, file in curves.items()}
    except FileNotFoundError:
        return Problem("damaged", folder, _("{file} is missing", file=METRICS_FILE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Problem("damaged", folder, _("it cannot be read: {why}", why=why))
    if result.block != folder.name:
        why = _("{file} belongs to the block {block}", file=METRICS_FILE, block=result.block)
        return Problem("foreign", folder, why)
    return SavedResult(folder, result, files, missing)


def _read_curves(file: Path) -> pd.DataFrame:
    """Return a saved operating curve; raise KeyError or ValueError where it is none."""
    texts, numbers = ["set", "measure", "class", "population"], ["threshold", "value", "low", "high", "level"]
    table = read_table(file, rows=_MOST_CURVE_ROWS, texts=texts)
    table = pd.concat([table[texts].fillna(""), table[numbers].astype(np.float64)], axis=1)
    if not table["threshold"].eq(0).any() or table["threshold"].isna().any():
        raise ValueError(f"{file.name}: its thresholds do not begin at 0")
    return table.drop_duplicates(["set", "measure", "class", "threshold"])


def read_evaluation(root: Path, compares: bool = False) -> Iterator[SavedResult | Problem]:
    """Yield the results in evaluation/<set>/<block>/ by name; raise CheckpointError if that links elsewhere."""
    refuse_outward_links(root, "evaluation")
    for folder in sorted((root / "evaluation").glob("*/*/")):
        if not folder.name.startswith("."):  # a result being written
            yield read_saved(folder, compares)
