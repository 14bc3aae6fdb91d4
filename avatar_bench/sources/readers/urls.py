"""Images on servers, named by their addresses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from avatar_bench import __version__
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources.readers.background_threads import run_in_background
from avatar_bench.sources.readers.download import Address, Downloader, DownloadError
from avatar_bench.sources.readers.hosts import RequestOptions
from avatar_bench.sources.readers.reader import (
    Source,
    SourceJob,
    SourceReader,
    extract_fields,
    fill_defaults,
    find_group,
    hash_facts,
    read_table,
    resolve_path,
)
from avatar_bench.sources.source_image import SourceImage

URL_OPTIONS: dict[str, Any] = {
    "names": None,
    "group": None,
    "parallel": 8,
    "per_host": 4,
    "pause": 0.1,
    "retries": 4,
    "timeout": 30,
    "max_mib": 32,
}


class ImageDownload(NamedTuple):
    """Name one image to download, with what is known of it as fields of a Image."""

    name: str
    address: Address
    known: dict[str, Any]


def read(job: SourceJob) -> Iterator[SourceImage]:
    """Give the images at `urls`, at `base` + `names`, or of `list`, in the order in which they are named.

    What cannot be had is quarantined. Raise DataError where that is all, ConfigError for names that make no sense.
    """
    said = fill_defaults(job.source, URL_OPTIONS)
    wanted = [one for one in _list_downloads(said) if one.name not in job.done]
    stop = threading.Event()
    loader = Downloader(job.place, _make_request_options(said), stop)
    had = 0
    reason = ""
    results = run_in_background(partial(_fetch, loader), wanted, said["parallel"], stop)
    for one, future in zip(wanted, results, strict=True):
        if isinstance(error := future.exception(), DownloadError):
            reason = reason or f"{one.address.url}: {error}"
            job.quarantine.append((one.name, str(error)))
            continue
        had += 1
        yield SourceImage(name=one.name, content=future.result(), **one.known)
    if reason and not had and not any(one.name in job.done for one in _list_downloads(said)):
        raise DataError(
            f"source.{job.name}: nothing could be downloaded.", reason, "Connect and run the same command again."
        )


def expand_pattern(name: str) -> list[str]:
    """Give every name that a pattern stands for: {a,b} and {0..99} in it (a leading 0 keeps the width)."""
    parts = re.split(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}", name)
    choices = [_expand_braces(part) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]


def _expand_braces(text: str) -> list[str]:
    if "," in text:
        return text.split(",")
    first, last = text.split("..")
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]


def _fetch(loader: Downloader, wanted: ImageDownload) -> Path:
    return loader.fetch(wanted.address)


def _make_request_options(said: Mapping[str, Any]) -> RequestOptions:
    about = said.get("homepage") or ""
    agent = (
        f"avatar_bench/{__version__} (research data set; source {about})" if about else f"avatar_bench/{__version__}"
    )
    size = round(said["max_mib"] * 2**20)
    return RequestOptions(said["per_host"], said["pause"], said["retries"], said["timeout"], size, agent)


def _list_downloads(said: Mapping[str, Any]) -> list[ImageDownload]:
    """Give what is to be downloaded, each name and each address once: the first."""
    if said.get("list"):
        found = list(_read_list(resolve_path(said["list"])))
    elif said.get("urls"):
        sums = said["urls"] if isinstance(said["urls"], Mapping) else dict.fromkeys(said["urls"])
        found = [
            ImageDownload(_name_of_url(url), Address(url, sums[text] or ""), {})
            for text in sums
            for url in expand_pattern(text)
        ]
    else:
        found = list(_list_named(said["base"], said["names"]))
    seen: set[str | Address] = set()
    kept = []
    for one in found:
        if seen.isdisjoint({one.name, one.address}):  # two threads may not write one file
            group = find_group(said["group"], one.name)
            kept.append(one._replace(known={"group": group} | one.known))
        seen |= {one.name, one.address}
    return kept


def _list_named(base: str, names: Any) -> Iterator[ImageDownload]:
    boxes: Mapping[str, Any] = names if isinstance(names, Mapping) else dict.fromkeys(names)
    for pattern, box in boxes.items():
        for name in expand_pattern(pattern):
            known = {"box": tuple(box)} if box else {}
            yield ImageDownload(name, Address(urljoin(base.rstrip("/") + "/", quote(name))), known)


def _read_list(file: Path) -> Iterator[ImageDownload]:
    """Read a CSV with a column url, or one address a line."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {error}.", "Expected a CSV with a column url, or one URL a line."
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "://" in lines[0]:
        yield from (ImageDownload(_name_of_url(line), Address(line), {}) for line in lines if not line.startswith("#"))
        return
    for row in read_table(file, "url").to_dict("records"):
        said = {str(key): str(value) for key, value in row.items()}
        yield ImageDownload(
            said.get("name") or _name_of_url(said["url"]),
            Address(said["url"], said.get("sha256", "")),
            extract_fields(said),
        )


def _name_of_url(url: str) -> str:
    """Give the name of what an address leads to: host, query if any, path."""
    try:
        parts = urlsplit(url)
    except ValueError:  # the download tells what is wrong
        return url
    return "/".join(part for part in (parts.netloc, parts.query, unquote(parts.path).lstrip("/")) if part)


def _hash_state(source: Source) -> str:
    file = resolve_path(source["list"]) if source.get("list") else None
    return hash_facts([file.read_bytes()]) if file and file.is_file() else ""


def _check(name: str, source: Source) -> None:
    if source.get("base") and not source.get("names"):
        raise ConfigError(
            f"source.{name}.base needs source.{name}.names.", 'For example: names: ["{female,male}/{0..99}.jpg"]'
        )
    if source.get("names") and not source.get("base"):
        raise ConfigError(f"source.{name}.names needs source.{name}.base, the address they lie below.")
    for key in ("parallel", "per_host", "timeout", "max_mib"):
        if (value := source.get(key)) is not None and not (isinstance(value, int | float) and value > 0):
            raise ConfigError(f"source.{name}.{key}={value}: expected a number above 0.")


URL_READER = SourceReader(read, _hash_state, required=("urls|base|list",), optional=URL_OPTIONS, check=_check)
