"""Outputs of predict that are folders of Parquet parts, written by several processes, local or remote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from pyarrow import fs, parquet

from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.remote import is_remote, open_remote
from avatar_bench.inference.prediction_writer import CHECKED_ROWS, escape_path, is_number


class PredictionParts:
    """Rows in the Parquet files of a folder; `kept`, `last`, `bad` and `count` are those of PredictionWriter."""

    is_page: ClassVar[bool] = False

    def __init__(self, output: str, columns: Sequence[str], update: bool) -> None:
        """Open a folder; with `update`, its rows are kept, and a part that was cut short is removed.

        Raise OutputError if it is no folder or, without `update`, not empty, ConfigError for rows of other columns.
        """
        self.output = output
        self.schema = pa.schema([(name, pa.float64() if is_number(name) else pa.string()) for name in columns])
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
                self._keep(part)
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
            rows = self._read(part, ["status"])
            failed = 0 if rows is None else rows["status"].to_pylist().count("error")
            good, bad = good + (0 if rows is None else len(rows)) - failed, bad + failed
        return good, bad

    def path_of(self, file: str) -> str:
        """Return the path of a file as written in its row."""
        return escape_path(file)

    def to_arrow(self, rows: pd.DataFrame) -> pa.Table:
        """Return rows as they are written."""
        rows = rows.assign(path=rows["path"].map(self.path_of))
        return pa.Table.from_pandas(rows, self.schema, preserve_index=False).replace_schema_metadata(None)

    def _list_parts(self) -> list[str]:
        infos = self.system.get_file_info(fs.FileSelector(self.folder, allow_not_found=True))
        return sorted(info.path for info in infos if info.type == fs.FileType.File and info.path.endswith(".parquet"))

    def _keep(self, part: str) -> None:
        """Keep the rows of an earlier part; remove it if its writer was killed, so that its files are read again."""
        rows = self._read(part)
        if rows is None:
            self.system.delete_file(part)
            return
        if rows.schema.names != self.schema.names:
            raise ConfigError(
                f"update=true: {self.output} does not have the columns of this run.", "Choose another output."
            )
        self.kept += rows["path"].to_pylist()
        self.bad += rows["status"].to_pylist().count("error")
        self.last = [*self.last, *rows.slice(0, CHECKED_ROWS).to_pylist()][:CHECKED_ROWS]

    def _read(self, part: str, columns: list[str] | None = None) -> pa.Table | None:
        """Return the rows of a part, None if it is not complete."""
        try:
            read: Any = parquet.read_table  # has no annotations
            return read(part, columns=columns, filesystem=self.system, partitioning=None)
        except pa.ArrowInvalid:
            return None
