"""Outputs of predict that are folders of Parquet parts, written by several processes, local or remote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import fs, parquet

from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.remote import is_remote, open_remote
from avatar_bench.inference.prediction_writer import CHECKED_ROWS, escape_path

_NUMBERS = ("confidence", "ood_percentile")


class PredictionParts:
    """Rows in the Parquet files of a folder; `kept`, `last`, `bad` and `count` are those of PredictionWriter."""

    def __init__(self, output: str, columns: Sequence[str], update: bool) -> None:
        """Open a folder; with `update`, its rows are kept, and a part that was cut short is removed.

        Raise OutputError if it is no folder or, without `update`, not empty, ConfigError for rows of other columns.
        """
        self.output = output
        self.schema = pa.schema(
            [(name, pa.float64() if name in _NUMBERS or name.startswith("prob_") else pa.string()) for name in columns]
        )
        self.kept: list[str] = []
        self.last: list[dict[str, Any]] = []
        self.bad = 0
        try:
            self.system, self.folder = open_remote(output) if is_remote(output) else (fs.LocalFileSystem(), output)
            if self.system.get_file_info(self.folder).type == fs.FileType.File:
                raise OutputError(f"output={output} is a file.", "engine=ray writes a folder of parts of this name.")
            parts = self._list_parts()
            if parts and not update:
                raise OutputError(
                    f"output={output} has predictions already.",
                    "Continue them with update=true, remove the folder, or choose another output.",
                )
            for part in parts:
                self._read_part(part)
        except OSError as error:
            raise OutputError(f"output={output}: {' '.join(str(error).split())}") from error

    @property
    def count(self) -> int:
        """Return the number of rows in complete parts."""
        return sum(self.count_statuses())

    def count_statuses(self) -> tuple[int, int]:
        """Return the numbers of predictions and of files that could not be read."""
        good = bad = 0
        for part in self._list_parts():
            try:
                status = parquet.read_table(part, filesystem=self.system, columns=["status"])["status"].to_pandas()
            except pa.ArrowInvalid:  # being written, or cut short
                continue
            ok = int((status == "ok").sum())
            good, bad = good + ok, bad + len(status) - ok
        return good, bad

    def path_of(self, file: str) -> str:
        """Return the path of a file as written in its row."""
        return escape_path(file)

    def to_arrow(self, rows: pd.DataFrame) -> pa.Table:
        """Return rows as they are written."""
        rows = rows.assign(path=rows["path"].map(self.path_of))
        return pa.Table.from_pandas(rows, self.schema, preserve_index=False).replace_schema_metadata(None)

    def _list_parts(self) -> list[str]:
        found = self.system.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return sorted(one.path for one in found if one.type == fs.FileType.File and one.path.endswith(".parquet"))

    def _read_part(self, part: str) -> None:
        try:
            file = parquet.ParquetFile(part, filesystem=self.system)
            columns = file.schema_arrow.names
            if columns != self.schema.names:
                raise ConfigError(
                    f"update=true: {self.output} does not have the columns of this run.", "Choose another output."
                )
            rows = file.read(["path", "status"])
            if len(self.last) < CHECKED_ROWS:
                self.last += file.read().to_pylist()[: CHECKED_ROWS - len(self.last)]
        except pa.ArrowInvalid:  # its writer was killed: its files are read again
            self.system.delete_file(part)
            return
        self.kept += rows["path"].to_pylist()
        self.bad += rows["status"].to_pylist().count("error")
