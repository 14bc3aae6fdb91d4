"""Predictions as Parquet."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import parquet

from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.remote import is_remote, open_remote
from avatar_bench.inference.prediction_writer import PredictionWriter, escape_path, make_output_error


class ParquetFileWriter(PredictionWriter):
    """A writer of one Parquet file, at the end or when interrupted, because rows cannot be appended to Parquet."""

    def path_of(self, file: str) -> str:
        """Return the path of a file as Parquet can store it."""
        return escape_path(file)

    def read_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        self.earlier = pd.read_parquet(path)
        if list(self.earlier) != self.columns:
            raise ValueError(list(self.earlier))
        yield from (dict(zip(self.columns, row, strict=True)) for row in self.earlier.itertuples(index=False))

    def remove_rows(self, file: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        with atomic_write(file, alone=False) as part:
            self.earlier[[path not in paths for path in self.kept]].to_parquet(part, index=False)

    def start(self) -> None:
        """Start with the earlier rows, if there are any."""
        self.rows = [self.earlier] if self.kept else []

    def write(self, rows: pd.DataFrame) -> None:
        """Collect rows."""
        self.rows.append(rows.assign(path=rows["path"].map(self.path_of)))
        self.count += len(rows)

    def close(self) -> None:
        """Write all rows atomically."""
        assert self.place is not None
        table = pd.concat(self.rows, ignore_index=True) if self.rows else pd.DataFrame(columns=self.columns)
        try:
            with atomic_write(self.place) as part:
                table.to_parquet(part, index=False)
        except OSError as error:
            raise make_output_error(self.final, error) from error

    @classmethod
    def read_table(cls, output: str) -> pd.DataFrame:
        """Read a file, or a folder of parts, which may be remote."""
        system, path = open_remote(output) if is_remote(output) else (None, output)
        read: Any = parquet.read_table  # has no annotations
        table: pd.DataFrame = read(path, filesystem=system, partitioning=None).to_pandas()
        return table
