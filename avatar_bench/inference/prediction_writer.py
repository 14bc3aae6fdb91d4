"""Writers of prediction tables, batch by batch and resumable, and the stamps of the files in their rows."""

from __future__ import annotations

import csv
import json
import mmap
import os
import sys
from collections import Counter, deque
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import pandas as pd
from pyarrow.lib import ArrowInvalid

from avatar_bench.console.signals import ignore_termination
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.atomic_write import atomic_write

if TYPE_CHECKING:
    from avatar_bench.runs.file_predictor import FilePredictor

MAX_PAGE_IMAGES = 2000  # of more, a browser is slow and a person reviews no more
Stamp = tuple[int, int]  # of a file that a row was made from: bytes, and time of change in nanoseconds since 1970
CHECKED_ROWS = 16  # last rows of an earlier output that are compared to check that they are of the same run

_collected: ContextVar[list[pd.DataFrame] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_rows() -> Iterator[list[pd.DataFrame]]:
    """Collect the rows that are written inside the `with`, and write none to standard output."""
    tables: list[pd.DataFrame] = []
    token = _collected.set(tables)
    try:
        yield tables
    finally:
        _collected.reset(token)


class PredictionWriter:
    """A writer of rows to `place` (None: standard output) that is renamed to `final` once all rows are written.

    `kept` are the paths of the earlier rows, in order, `last` is the last few of these rows, and `bad` counts the
    failed files among them; `count` is the number of rows written so far, including the earlier ones. `outdated` is
    the number of earlier rows that are not kept, because their files have changed, see `find_outdated`.

    A page is written as a whole, from at most MAX_PAGE_IMAGES files; a table can be continued.
    """

    is_page: ClassVar[bool] = False
    marks: ClassVar[tuple[bytes, ...]] = (b"path", b"status", b"prediction")  # that every output holds

    def __init__(
        self,
        target: Path | None,
        columns: list[str],
        resume: bool = False,
        final: Path | None = None,
        stamps: Mapping[str, Stamp | None] | None = None,
    ) -> None:
        self.place, self.columns, self.final = target, columns, final
        self.outdated = self.bad = 0
        self.kept: list[str] = []
        self.last: deque[dict[str, Any]] = deque(maxlen=CHECKED_ROWS)
        earlier: dict[str, Stamp | None] = {}
        current = {self.path_of(file): stamp for file, stamp in (stamps or {}).items()}
        if resume and target is not None:
            earlier, written = load_stamps(locate_stamps(target)), target.stat().st_mtime_ns
            try:
                self._keep(target)
                if outdated := set(find_outdated(current, earlier, self.kept, written)):
                    self.outdated = sum(path in outdated for path in self.kept)
                    self.remove_rows(target, outdated)
                    self._keep(target)
            except (ValueError, TypeError, KeyError, ArrowInvalid, csv.Error, NotImplementedError) as error:
                reason = f"update=true: {target} does not have the columns of this run, or is damaged."
                raise ConfigError(reason, "Choose another output.") from error
        if target is not None and stamps:  # after outdated rows are gone, so that none passes for a current one
            known = {path: stamp for path, stamp in current.items() if stamp or path not in earlier}
            save_stamps(earlier | known, locate_stamps(target))
        self.count = len(self.kept)
        self.start()

    @classmethod
    def open(cls, predictor: FilePredictor, n_files: int, stamps: Mapping[str, Stamp | None]) -> PredictionWriter:
        """Open a writer for the `output` of the settings, or for standard output, of the rows of `n_files`.

        With `update`, the rows of an earlier output are kept, but those of files that have changed since, by their
        `stamps`; otherwise an existing file is replaced once all rows are written. Raise ConfigError for other columns,
        OutputError if the output cannot be written.
        """
        output, update, columns = predictor.settings.output, predictor.settings.update, predictor.columns
        if output == "-":
            return cls(None if _collected.get() is None else Path(os.devnull), columns)
        file = Path(output)
        part = file.with_name(f"{file.name}.part")  # an earlier file stays until the new one is complete
        try:
            if part.is_symlink():  # of somebody else
                part.unlink()
            existing = part if (part if update else file).is_file() else file
            if existing is file:
                part.unlink(missing_ok=True)
                locate_stamps(part).unlink(missing_ok=True)
            return cls(existing, columns, update and existing.is_file(), file, stamps)
        except OSError as error:
            raise make_output_error(output, error) from error

    @classmethod
    def refuse_foreign_file(cls, output: str) -> None:
        """Raise OutputError if an output is there, and neither empty nor one of this kind."""
        file = Path(output)
        if not file.is_file() or not file.stat().st_size:
            return
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            first_line = content.find(b"\n") if issubclass(cls, TextWriter) else -1
            if all(content.find(mark, 0, first_line if first_line > 0 else len(content)) >= 0 for mark in cls.marks):
                return
        raise OutputError(f"output={output} is there, and holds no predictions.", "Choose another name: output=FILE")

    @classmethod
    def read_table(cls, output: str) -> pd.DataFrame:
        """Read what was written; numbers may be texts."""
        raise NotImplementedError

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ignore_termination():
            self.close()
            if self.place is not None and self.final is not None and kind is None:
                self.place.replace(self.final)
                if (stamps := locate_stamps(self.place)).is_file():
                    stamps.replace(locate_stamps(self.final))

    def path_of(self, file: str) -> str:
        """Return the path of a file as written in its row."""
        return file

    def read_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows of an earlier output and truncate an incomplete one; raise an error for any other file."""
        raise NotImplementedError

    def restore_paths(self, paths: list[str]) -> list[str]:
        """Convert the paths in rows to those of `path_of`."""
        return paths

    def remove_rows(self, path: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        raise NotImplementedError

    def _keep(self, earlier: Path) -> None:
        """Read the rows of an earlier output; raise an error, of several types, for any other file."""
        self.kept, self.bad = [], 0
        self.last.clear()
        for row in self.read_rows(earlier):
            self.kept.append(row["path"])
            self.bad += row["status"] == "error"
            self.last.append(row)
        self.kept = self.restore_paths(self.kept)
        for path, row in zip(self.kept[-CHECKED_ROWS:], self.last, strict=True):
            row["path"] = path

    def start(self) -> None:
        """Prepare for writing after the earlier rows."""
        raise NotImplementedError

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows, and collect them inside of `collect_rows`."""
        self.write(rows)
        if (tables := _collected.get()) is not None:
            tables.append(rows[self.columns])

    def write(self, rows: pd.DataFrame) -> None:
        """Write rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the rest, and close the output."""
        raise NotImplementedError


class TextWriter(PredictionWriter):
    """A writer of complete lines, batch by batch, so that an interruption loses no finished row."""

    stream: BinaryIO

    def start(self) -> None:
        """Open the file or standard output."""
        self.complete = 0
        if self.place is None:
            self.stream = sys.stdout.buffer
        else:
            self.stream = self.place.open("ab" if self.kept else "wb", buffering=0)
            self.complete = self.stream.tell()
        if not self.kept:
            self._put(self.format_header())

    def format_header(self) -> str:
        """Return the text before the first row."""
        return ""

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        raise NotImplementedError

    def read_texts(self, path: Path) -> Iterator[str]:
        """Yield the text of each complete row, and truncate an incomplete one; raise ValueError for any other file."""
        raise NotImplementedError

    def remove_rows(self, file: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        with atomic_write(file, alone=False) as part, part.open("wb") as stream:  # PLACE.part would be taken for rows
            rows = zip(self.read_texts(file), self.kept, strict=True)
            for text in (self.format_header(), *(text for text, path in rows if path not in paths)):
                stream.write(text.encode("utf-8", errors="surrogateescape"))

    def write(self, rows: pd.DataFrame) -> None:
        """Write rows; raise OutputError if the disk is full."""
        self._put(self.format_rows(rows))
        self.count += len(rows)

    def close(self) -> None:
        """Close the file, and truncate an incomplete row."""
        if self.place is not None:
            with suppress(OSError):  # a pipe cannot be truncated
                self.stream.truncate(self.complete)
            self.stream.close()

    def _put(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", errors="surrogateescape"))  # keeps names that are not UTF-8
        size = len(left)
        try:
            while left:
                left = left[self.stream.write(left) :]
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise make_output_error(self.final or "-", error) from error
        self.complete += size


def is_number(column: str) -> bool:
    """Return whether a column of predictions holds numbers; the others hold texts."""
    return column in ("confidence", "ood_percentile", "stability") or column.startswith("prob_")


def escape_path(file: str) -> str:
    r"""Return a path in UTF-8; other bytes, which Parquet cannot store, are written as \xff."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_objects(rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return rows as JSON objects; missing values are None."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def format_json(row: Mapping[Hashable, Any]) -> str:
    """Return a row as one line of JSON."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(row)  # escapes the surrogates of names that are not UTF-8


def read_whole_lines(file: Path, start: str, quotes: bool = False) -> Iterator[str]:
    """Yield each complete line of a file, and truncate an incomplete one; raise ValueError for another start.

    With `quotes`, a line break within quotes does not end a line.
    """
    complete = open_quotes = 0
    parts: list[bytes] = []
    with file.open("rb") as stream:
        if not start.encode().startswith(stream.read(len(start.encode()))):
            raise ValueError(start)
        stream.seek(0)
        for line in stream:
            parts.append(line)
            open_quotes ^= line.count(b'"') & 1 if quotes else 0
            if line.endswith(b"\n") and not open_quotes:
                text = b"".join(parts)
                yield text.decode("utf-8", errors="surrogateescape")
                complete += len(text)
                parts.clear()
    os.truncate(file, complete)


def make_output_error(output: str | Path | None, error: OSError) -> OutputError:
    advice = "Free some space, or choose another file: output=FILE"
    return OutputError(f"output={output} cannot be written: {error.strerror or error}.", advice)


def locate_stamps(output: Path) -> Path:
    """Return the file of the stamps of an output of predict."""
    return output.with_name(f".{output.name}.stamps")


def read_stamp(file: str) -> Stamp | None:
    """Return the stamp of a file, None if it is not there."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # of a name that holds a null
        return None
    return status.st_size, status.st_mtime_ns


def load_stamps(file: Path) -> dict[str, Stamp | None]:
    """Return the stamps of rows by their path, {} if there are none; what is damaged is left out."""
    stamps: dict[str, Stamp | None] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                path, stamp = json.loads(line)
                stamps[path] = stamp and tuple(stamp)
    except (OSError, ValueError, TypeError):
        return stamps
    return stamps


def save_stamps(stamps: Mapping[str, Stamp | None], file: Path) -> None:
    """Write stamps, one a line."""
    with atomic_write(file, sync=False) as part, part.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(pair)}\n" for pair in stamps.items())


def find_outdated(
    current: Mapping[str, Stamp | None], earlier: Mapping[str, Stamp | None], paths: Iterable[str], written: int
) -> Iterator[str]:
    """Yield those of the `paths` of rows whose file has changed since, by its stamp; a file that is gone has not.

    A row without an `earlier` stamp was made before its output was `written`, in nanoseconds since 1970.
    """
    for path in paths:
        if (stamp := current.get(path)) and (stamp != earlier[path] if path in earlier else stamp[1] > written):
            yield path


def find_remaining(
    files: Sequence[str], paths: Sequence[str], kept: Sequence[str], batch_size: int
) -> tuple[list[str], int]:
    """Return the files to predict, and how many of the first of them already have a row.

    `paths` (n,) are `files` as written in rows, `kept` the paths of the earlier rows. The batch in which an interrupted
    output ends is predicted again as a whole, because the last digits of a probability depend on the other images in
    the batch. A file that is named twice has two rows.
    """
    if paths[: len(kept)] == kept:
        again = len(kept) % batch_size if len(kept) < len(files) else 0
        return list(files[len(kept) - again :]), again
    left, remaining = Counter(kept), []
    for file, path in zip(files, paths, strict=True):
        if not left[path]:
            remaining.append(file)
        left[path] = max(0, left[path] - 1)
    return remaining, 0
