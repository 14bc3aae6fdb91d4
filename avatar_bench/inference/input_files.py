"""The files that `input` of predict names."""

from __future__ import annotations

import codecs
import glob
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from avatar_bench.console.terminal import format_name, format_names, print_note
from avatar_bench.data.folders import OWN_RECORDS
from avatar_bench.data.user_tables import find_column, split_header
from avatar_bench.errors import DataError
from avatar_bench.files.remote import is_remote, list_remote, read_remote
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference.prediction_writer import locate_stamps

_MANIFEST_SUFFIXES = (".csv", ".parquet")


def find_input_files(sources: str | list[str]) -> list[str]:
    """Return the files that `input` names: a file, a folder (recursive, sorted), a glob, a list, or - (stdin).

    A list is @FILE, with one path per line; a .csv or .parquet file with a column `path`, relative to the file's own
    folder, needs no @. An existing path is taken literally. A folder, glob or list may be remote. Of several inputs,
    each file is taken once. Raises DataError if nothing is found.
    """
    if isinstance(sources, str):
        return _find_files(sources)
    return list(dict.fromkeys(file for text in sources for file in _find_files(text)))


def _find_files(text: str) -> list[str]:
    if text == "-":
        return _parse_paths(sys.stdin.buffer.read(), "standard input")
    if Path(text).is_dir():
        files = list(_walk_folder(text))
        if not files:
            raise DataError(f"input={text}: the folder contains no files.", "Expected images in it or below it.")
        return files
    is_list = text.startswith("@") and not Path(text).exists()
    address = text[1:] if is_list else text
    if address.lower().endswith(_MANIFEST_SUFFIXES) and (is_remote(address) or Path(address).is_file()):
        listed = _read_manifest(address)
        if listed is not None:
            return listed
    if is_list:
        return _parse_paths(_read_list(address), address)
    if Path(text).exists():
        return [text]
    if is_remote(text):
        files = list_remote(text)
    else:
        files = sorted(file for file in glob.glob(text, recursive=True) if os.path.isfile(file))
    if not files:
        raise DataError(
            f"input={text} does not exist and matches no file.", "Expected a file, folder, glob, @FILE or -."
        )
    return files


def _walk_folder(folder: str) -> Iterator[str]:
    """Yield the files of a folder in sorted order, without hidden ones and, with a note, those that commands write.

    These are runs, results, pages, and predictions, which have stamps beside them. Links to folders are not followed. A
    folder that cannot be read is yielded itself, so that it gets a row.
    """
    closed: list[str] = []
    skipped: list[str] = []
    for path, folders, files in os.walk(str(Path(folder)), onerror=lambda error: closed.append(error.filename)):
        yield from closed
        closed.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = "" if path == "." else path
        if not set(OWN_RECORDS).isdisjoint(files):
            skipped.append(path)
            folders.clear()
            continue
        for name in sorted(name for name in files if not name.startswith(".")):
            file = os.path.join(inside, name)
            is_own = name.endswith(".html") or locate_stamps(Path(name)).name in files
            yield from () if is_own else (file,)
            skipped += [file] * is_own
    yield from closed
    if skipped:
        print_note(f"left out, as runs, predictions and pages are no images: {format_names(skipped, 3)}")


def _read_list(address: str) -> bytes:
    try:
        return read_remote(address) if is_remote(address) else Path(address).read_bytes()
    except OSError as error:
        raise DataError(f"input=@{address}: {error.strerror}.", "Expected @FILE with one path per line.") from error


def _read_manifest(address: str) -> list[str] | None:
    """Return the paths in the column `path` of a table, None if it has no such column."""
    content = io.BytesIO(_read_list(address))
    try:
        if address.lower().endswith(".parquet"):
            columns = [name for name in parquet.read_schema(content).names if find_column(name, ("path",)) == "path"]  # type: ignore[no-untyped-call]
            if not columns:
                return None
            table = parquet.read_table(content, columns=columns)  # type: ignore[no-untyped-call]
            paths = table[columns[0]].to_pylist()
        else:
            line = next((line for line in content if line.strip(codecs.BOM_UTF8 + b'"\t\r\n ')), b"")
            heading, separator = split_header(line.decode("utf-8-sig").rstrip("\r\n"), ("path",))
            if heading.count("path") > 1:
                raise DataError(f"{address} has the column path twice.", "Expected each column once.")
            if len(heading) == 1 and heading != ["path"] and "path" in re.split(r"[\t|]", heading[0].lower()):
                reason = f"{address}: its columns are not separated by commas: {format_name(heading[0])}"
                raise DataError(reason, "Expected a header such as path,label.")
            if "path" not in heading:
                return None
            content.seek(0)
            kept = {"usecols": [heading.index("path")], "dtype": str, "keep_default_na": False}
            paths = read_csv(content, sep=separator, encoding="utf-8-sig", **kept).iloc[:, 0].tolist()
    except (ValueError, pa.ArrowException):  # no table: a file like any other
        return None
    if not paths:
        raise DataError(f"{address} contains no paths.", "Expected a row per file.")
    folder = address.rpartition("/")[0] if is_remote(address) else os.path.dirname(address)
    return [path if is_remote(path) else os.path.join(folder, path) for path in paths]


def _parse_paths(content: bytes, name: str) -> list[str]:
    """Return the paths of a list, one per line or separated by zeros as in `find -print0`."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes
        content = content.decode("utf-16", "replace").encode("utf-8", "surrogateescape")
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\0" if b"\0" in content else b"\n")
    paths = [os.fsdecode(path.rstrip(b"\r\n") if b"\0" not in content else path) for path in lines]
    paths = [path for path in paths if path]
    if not paths:
        raise DataError(f"{name} contains no paths.", "Expected one path per line.")
    return paths
