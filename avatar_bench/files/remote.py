"""Files on remote file systems, named by addresses such as s3://bucket/key, through pyarrow or fsspec."""

from __future__ import annotations

import re
import time
from functools import cache
from typing import Any

from avatar_bench.errors import OutputError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)", re.IGNORECASE)
_WILDCARD = re.compile(r"[*?[]")
# answers about one file: asking again would not help
_ABOUT_THE_FILE = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
_REFUSED = re.compile(r"ACCESS_DENIED|HTTP status 4(?!08|29)\d\d|INVALID|NO_SUCH")
_WAITS = 1, 2, 4, 8, 16, 32, 32  # seconds before a server that does not answer is asked again


def is_remote(path: str) -> bool:
    """Return whether a path is the address of a remote file or folder."""
    return _ADDRESS.match(path) is not None


def open_remote(address: str) -> tuple[Any, str]:
    """Return a pyarrow file system and the path in it that an address names; raise OutputError for an unknown one."""
    scheme, host = _split(address)
    system, root = _open_system(scheme, host)
    return system, root + address[len(f"{scheme}://{host}") :]


def list_remote(address: str) -> list[str]:
    """Return the sorted addresses of the files below a folder, without hidden ones, or that a glob matches."""
    from fsspec.implementations.arrow import ArrowFSWrapper

    system, path = open_remote(address)
    files, stated = ArrowFSWrapper(system), path.rstrip("/")
    if not _WILDCARD.search(stated) or files.exists(stated):
        paths = files.find(stated)
    else:
        paths = [name for name, about in files.glob(stated, detail=True).items() if about["type"] == "file"]
        stated = _WILDCARD.split(stated)[0].rpartition("/")[0]
    scheme, host = _split(address)
    root = _open_system(scheme, host)[1]
    return sorted(f"{scheme}://{host}{name[len(root) :]}" for name in paths if "/." not in name[len(stated) :])


def read_remote(address: str) -> bytes:
    """Return the content of a file; raise OSError if it is missing or refused, OutputError after 90 s of silence."""
    system, path = open_remote(address)
    for wait in (*_WAITS, None):
        try:
            with system.open_input_file(path) as file:
                content: bytes = file.read()
                return content
        except Exception as error:  # file systems of fsspec raise those of their own libraries
            if isinstance(error, _ABOUT_THE_FILE) or _REFUSED.search(str(error)):
                raise
            if wait is None:
                reason = " ".join(str(error).split())[:200]
                raise OutputError(
                    f"{address} cannot be read: {reason}.", "Go on later with the same command and update=true."
                ) from error
        time.sleep(wait)
    raise AssertionError


def _split(address: str) -> tuple[str, str]:
    match = _ADDRESS.match(address)
    assert match is not None, address
    return match[1], match[2]


@cache
def _open_system(scheme: str, host: str) -> tuple[Any, str]:
    """Return a file system and the path in it of the root of a host, or bucket."""
    import pyarrow as pa
    from pyarrow import fs

    root = f"{scheme}://{host}"
    try:
        system, path = fs.FileSystem.from_uri(f"{root}/")  # unlike S3FileSystem(), reads AWS_ENDPOINT_URL: arrow#49643
    except pa.ArrowInvalid:
        import fsspec

        try:
            inner, path = fsspec.core.url_to_fs(f"{root}/")
        except (ValueError, ImportError) as error:
            raise OutputError(f"{root}: {' '.join(str(error).split())}") from error
        system = fs.PyFileSystem(fs.FSSpecHandler(inner))  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise OutputError(f"{root} cannot be opened: {' '.join(str(error).split())}") from error
    return system, path.rstrip("/")
