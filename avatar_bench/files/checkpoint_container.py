"""Archives written by torch and numpy that take no more memory than their size, and addresses given for them."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from avatar_bench.errors import CheckpointError

BACKBONE_FILE = "backbone.safetensors"  # of a pretraining run
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/|(hf[-_]hub|local-dir|timm):")


def open_stored_archive(stream: BinaryIO) -> ZipFile:
    """Open an archive, checked by CRC-32 as read; raise BadZipFile if its records may be larger than the file."""
    archive = ZipFile(stream)
    records = archive.infolist()
    if any(record.compress_type != ZIP_STORED for record in records):
        raise BadZipFile("its records are compressed")
    if sum(record.file_size for record in records) > stream.seek(0, io.SEEK_END):
        raise BadZipFile("its records overlap")
    return archive


def copy_torch_archive(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the data.pkl of an archive, and a copy of it: of odd ones torch would read other records than zipfile."""
    copy = io.BytesIO()
    with open_stored_archive(stream) as archive, ZipFile(copy, "w") as clean:
        # torch ignores the case of names
        names = {name.partition("/")[2].lower(): name for name in archive.namelist()}
        if "data.pkl" not in names:
            raise BadZipFile("it has no data.pkl")
        for name, original in names.items():
            clean.writestr(ZipInfo(f"archive/{name}"), archive.read(original))
        return archive.read(names["data.pkl"]), copy


def refuse_address(text: str, option: str) -> None:
    """Raise CheckpointError for a URL such as https://HOST/x.ckpt, unless a file has that name; none is opened."""
    if _ADDRESS.match(text) and not os.path.lexists(text):
        reason = f"{option}={text} is a URL, but checkpoints are read from files only."
        raise CheckpointError(reason, "Download it first and pass the file's path.")
