"""Columns that entries add to the rows of predict; all of them are of plug-ins and users."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_bench.config.options import option

if TYPE_CHECKING:
    import pandas as pd

    from avatar_bench.runs.run import Run


@dataclass
class PredictionColumns:
    """Options of an entry, which adds the columns `names` to tables of predictions where it is `enabled`."""

    enabled: bool = option(False, help="add its columns")
    names: ClassVar[tuple[str, ...]] = ()

    def open(self) -> None:
        """Read what the options name; raise ConfigError if it cannot be read."""

    def add_to(self, table: pd.DataFrame, run: Run) -> pd.DataFrame:
        """Return a table of predictions of files with the columns, which hold texts, or None where a file failed."""
        raise NotImplementedError

    @staticmethod
    def list_cautions() -> list[str]:
        """Return what is said wherever the columns are shown, in the current language."""
        return []

    @staticmethod
    def list_notes() -> list[str]:
        """Return what a user must know of this installation, in the current language."""
        return []

    def find_claim(self, row: Mapping[Hashable, Any]) -> str:
        """Return the class that a file itself claims, "" for none: an image predicted otherwise needs review."""
        return ""

    def describe(self, row: Mapping[Hashable, Any], is_brief: bool = False) -> list[tuple[str, str]]:
        """Return what pages show of the row of an image, as terms with texts or Markup, in the current language.

        `is_brief` is for a small card.
        """
        return [(name, str(row[name])) for name in self.names if row.get(name)]
