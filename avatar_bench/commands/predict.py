"""predict: a verdict on each picture file."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from avatar_bench.config import PredictConfig
from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.runs import Run, newest_run, verdict_columns

CHUNK = 4096  # files handed to one set of workers: what is held in memory does not grow with the input


def predict(cfg: DictConfig) -> None:
    """Write one row a file to `output`; raise DataError after the last row where any file failed."""
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PredictConfig)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    run = Run.open(
        settings.ckpt or _newest(),
        device=settings.accelerator,
        workers=settings.workers,
        batch_size=settings.batch_size,
    )
    run.classifier  # noqa: B018  # a bad checkpoint shows before the input is read
    files = input_files(settings.input)
    with _writer(settings.output, verdict_columns(run.classes), settings.update) as writer:
        todo = [file for file in files if file not in writer.done]
        ok = errors = 0
        bar = tqdm(total=len(todo), unit="image", file=sys.stderr, disable=not sys.stderr.isatty())
        for start in range(0, len(todo), CHUNK):
            for rows in run.verdicts(todo[start : start + CHUNK], settings.calibrated, settings.precision):
                writer.write(rows)
                bar.update(len(rows))
                good = int((rows["status"] == "ok").sum())
                ok, errors = ok + good, errors + len(rows) - good
        bar.close()
    said = f"{ok} verdicts, {errors} files that could not be used"
    skipped = f", {len(files) - len(todo)} rows kept from before" if len(todo) < len(files) else ""
    print(f"{settings.output}: {said}{skipped}", file=sys.stderr if settings.output == "-" else sys.stdout)
    if errors:
        raise DataError(f"{errors} of {len(todo)} files could not be used: see status and reason in the output.")


def input_files(text: str) -> list[str]:
    """Give the files that `input` names: a file, a folder (recursive, sorted), a glob, @list.txt, or - (stdin).

    An existing path is taken literally. Raises DataError where nothing is found.
    """
    if text == "-":
        return _lines(sys.stdin, "standard input")
    path = Path(text)
    if path.is_dir():
        found = [str(file) for file in _walk(path)]
        if not found:
            raise DataError(f"input={text}: the folder holds no files.", "Expected pictures in it or below it.")
        return found
    if path.exists():
        return [text]
    if text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8", errors="surrogateescape") as stream:
                return _lines(stream, text[1:])
        except OSError as error:
            raise DataError(f"input={text}: {error.strerror}.", "Expected @FILE with one path a line.") from error
    found = sorted(file for file in glob.glob(text, recursive=True) if os.path.isfile(file))
    if not found:
        raise DataError(
            f"input={text} does not exist, and matches no file.", "Expected a file, folder, glob, @FILE or -."
        )
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Give the files of a folder in sorted order, without hidden ones; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(files) if not name.startswith("."))


def _lines(stream: TextIO, name: str) -> list[str]:
    paths = [line.rstrip("\r\n") for line in stream]
    paths = [path for path in paths if path]
    if not paths:
        raise DataError(f"{name} holds no paths.", "Expected one path a line.")
    return paths


def _newest() -> Path:
    newest = newest_run(Path("runs"))
    print(f"ckpt={newest} (the newest run)", file=sys.stderr)
    return newest


def _writer(output: str, columns: list[str], update: bool) -> RowWriter:
    if output == "-":
        return CsvWriter(None, columns, update)
    kinds = {".csv": CsvWriter, ".jsonl": JsonWriter, ".parquet": ParquetWriter}
    kind = kinds.get(Path(output).suffix.lower())
    if kind is None:
        raise ConfigError(f"output={output} has no known ending.", "Expected .csv, .jsonl, .parquet, or - (CSV).")
    return kind(Path(output), columns, update)


class RowWriter:
    """Write rows as they come; a file that stood there before is replaced only when all rows are written.

    With `update`, rows in the file are kept and their paths are `done`.
    """

    def __init__(self, file: Path | None, columns: list[str], update: bool) -> None:
        self.file = file
        self.columns = columns
        self.done: set[str] = set()
        self.stream: TextIO = sys.stdout
        self.part: Path | None = None
        if file is None:
            self.begin(new=True)
            return
        if update and file.is_file():
            self.done = self.read(file)
        elif file.exists():
            self.part = file.with_name(f"{file.name}.part")
        try:
            self.stream = (self.part or file).open("a" if self.done else "w", encoding="utf-8", newline="")
        except OSError as error:
            raise OutputError(f"output={file} cannot be written: {error.strerror}.") from error
        self.begin(new=not self.done)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.file is None:
            return
        self.end()
        self.stream.close()
        if self.part is not None and kind is None:
            self.part.replace(self.file)

    def read(self, file: Path) -> set[str]:
        """Give the paths whose rows are in an earlier output, and cut off a last row that is not whole."""
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            file.write_bytes(whole)
        return self.paths(file) if whole else set()

    def begin(self, new: bool) -> None:
        """Write what stands before the first row."""

    def end(self) -> None:
        """Write what stands after the last row."""

    def paths(self, file: Path) -> set[str]:
        """Give the paths of an earlier output's rows."""
        raise NotImplementedError

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows."""
        raise NotImplementedError


class CsvWriter(RowWriter):
    """Write CSV."""

    def begin(self, new: bool) -> None:
        """Write the header."""
        if new:
            pd.DataFrame(columns=self.columns).to_csv(self.stream, index=False)

    def paths(self, file: Path) -> set[str]:
        """Read the paths of the rows; refuse a file with other columns."""
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if list(table.columns) != self.columns:
            raise ConfigError(f"update: {file} has other columns than this run gives.", "Choose another output.")
        return set(table["path"])

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows, and flush them."""
        rows.to_csv(self.stream, index=False, header=False)
        self.stream.flush()


class JsonWriter(RowWriter):
    """Write one JSON object a line; what a failed file lacks is null."""

    def paths(self, file: Path) -> set[str]:
        """Read the paths of the rows."""
        with file.open(encoding="utf-8") as stream:
            return {json.loads(line)["path"] for line in stream}

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows, and flush them."""
        rows.to_json(self.stream, orient="records", lines=True, force_ascii=False, double_precision=15)
        self.stream.flush()


class ParquetWriter(RowWriter):
    """Write one Parquet file, whole, when all rows are there (or the run is interrupted)."""

    def begin(self, new: bool) -> None:
        """Keep the rows in memory: Parquet has no rows that can be added."""
        self.stream.close()
        self.rows: list[pd.DataFrame] = []

    def read(self, file: Path) -> set[str]:
        """Give the paths whose rows are there."""
        return self.paths(file)

    def paths(self, file: Path) -> set[str]:
        """Read the paths of the rows."""
        return set(pd.read_parquet(file)["path"])

    def write(self, rows: pd.DataFrame) -> None:
        """Keep some rows."""
        self.rows.append(rows)

    def end(self) -> None:
        """Write all rows."""
        assert self.file is not None
        target = self.part or self.file
        earlier = [pd.read_parquet(self.file)] if self.done else []
        pd.concat([*earlier, *self.rows], ignore_index=True).to_parquet(target, index=False)
