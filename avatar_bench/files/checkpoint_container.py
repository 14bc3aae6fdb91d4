"""Zip archives written by torch and numpy, validated completely before any content is used."""

from __future__ import annotations

import io
import os
import re
import struct
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from avatar_bench.errors import CheckpointError

BACKBONE_FILE = "backbone.safetensors"  # of a pretraining run
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/|(hf[-_]hub|local-dir|timm):")
MAX_CONTAINER_RECORDS = 20_000
_NAME = re.compile(r"([^/\\\x00-\x1f]+/)?[\w.-]+(/[\w.-]+)*", re.ASCII)  # torch names the top folder after the file
_FLAGS = (0, 0x8, 0x800, 0x808)  # data descriptor and UTF-8 names only: nothing encrypted or patched
_CHUNK = 1 << 20


def open_stored_archive(stream: BinaryIO) -> ZipFile:
    """Open an archive of uncompressed records, checked by CRC-32 as read; raise BadZipFile if it is malformed."""
    archive = ZipFile(stream)
    records = archive.infolist()
    if not 0 < len(records) <= MAX_CONTAINER_RECORDS:
        raise BadZipFile(f"it has {len(records):,} records; expected 1 to {MAX_CONTAINER_RECORDS:,}")
    if len({record.orig_filename.casefold() for record in records}) < len(records):
        raise BadZipFile("it has two records with the same name")
    for record in records:
        _check_record(record)
    if sum(record.file_size for record in records) > stream.seek(0, io.SEEK_END):
        raise BadZipFile("its records overlap")
    return archive


def check_torch_archive(stream: BinaryIO) -> bytes:
    """Check that torch wrote all of an archive, and every CRC-32 in it; return its data.pkl; raise BadZipFile."""
    with open_stored_archive(stream) as archive:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        top = records[0].filename.partition("/")[0]
        if any(not record.filename.startswith(f"{top}/") for record in records):
            raise BadZipFile("its records are in several folders")
        if any(record.external_attr & 0xFFFF or record.extra or record.comment for record in records):
            raise BadZipFile("a record has attributes")  # with a folder attribute, torch would skip a tensor
        if any(record.filename == f"{top}/constants.pkl" for record in records):
            raise BadZipFile("it contains TorchScript code")
        _check_end(stream, len(records), archive.start_dir)
        for record in records:
            with archive.open(record) as content:
                while content.read(_CHUNK):
                    pass
        try:
            return archive.read(f"{top}/data.pkl")
        except KeyError as error:
            raise BadZipFile("it has no data.pkl") from error


def _check_record(record: ZipInfo) -> None:
    if not _NAME.fullmatch(record.orig_filename):
        raise BadZipFile(f"a record is named {record.orig_filename[:80]!r}")
    if record.compress_type != ZIP_STORED or record.compress_size != record.file_size:
        raise BadZipFile(f"{record.filename} is compressed")
    if record.flag_bits not in _FLAGS:
        raise BadZipFile(f"{record.filename} is encrypted or patched")


def _check_end(stream: BinaryIO, count: int, start: int) -> None:
    """Raise BadZipFile if the file does not end with the directory of `count` records at `start`.

    In the ends of a large archive zipfile and torch look for the directory in different fields.
    """
    whole = stream.seek(0, io.SEEK_END)
    size = whole - start - 22
    stream.seek(max(0, whole - 98))
    last = stream.read()
    versions, large = last[12:16], last.startswith(b"PK\6\6")
    if large:
        size -= 76
        begin = struct.pack("<4sQ4s2L4Q", b"PK\6\6", 44, versions, 0, 0, count, count, size, start)
        begin += struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, 0)
    if not last.endswith((begin if large else b"") + end):
        raise BadZipFile("its directory is incomplete, or something lies before or behind it")


def refuse_address(text: str, option: str) -> None:
    """Raise CheckpointError for a URL such as https://HOST/x.ckpt, unless a file has that name; none is opened."""
    if _ADDRESS.match(text) and not os.path.lexists(text):
        reason = f"{option}={text} is a URL, but checkpoints are read from files only."
        raise CheckpointError(reason, "Download it first and pass the file's path.")
