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
from avatar_bench.sources.readers.background_threads import in_background
from avatar_bench.sources.readers.download import Address, Downloader, RefusedError
from avatar_bench.sources.readers.hosts import Manners
from avatar_bench.sources.readers.reader import (
    Job,
    Kind,
    Source,
    facts,
    group_of,
    local,
    options,
    read_table,
    short_hash,
)
from avatar_bench.sources.source_image import SourceImage

OPTIONS: dict[str, Any] = {
    "names": None,
    "group": None,
    "parallel": 8,
    "per_host": 4,
    "pause": 0.1,
    "retries": 4,
    "timeout": 30,
    "max_mib": 32,
}


class Wanted(NamedTuple):
    """Name one image to download, with what is known of it as fields of a Image."""

    name: str
    address: Address
    known: dict[str, Any]


def read(job: Job) -> Iterator[SourceImage]:
    """Give the images at `urls`, at `base` + `names`, or of `list`, in the order in which they are named.

    What cannot be had is quarantined. Raise DataError where that is all, ConfigError for names that make no sense.
    """
    said = options(job.source, OPTIONS)
    wanted = [one for one in _wanted(said) if one.name not in job.done]
    stop = threading.Event()
    loader = Downloader(job.place, _manners(said), stop)
    had = 0
    reason = ""
    results = in_background(partial(_fetch, loader), wanted, said["parallel"], stop)
    for one, future in zip(wanted, results, strict=True):
        if isinstance(error := future.exception(), RefusedError):
            reason = reason or f"{one.address.url}: {error}"
            job.quarantine.append((one.name, str(error)))
            continue
        had += 1
        yield SourceImage(name=one.name, content=future.result(), **one.known)
    if reason and not had and not any(one.name in job.done for one in _wanted(said)):
        raise DataError(
            f"source.{job.name}: nothing could be downloaded.", reason, "Connect and run the same command again."
        )


def expand(name: str) -> list[str]:
    """Give every name that a pattern stands for: {a,b} and {0..99} in it (a leading 0 keeps the width)."""
    parts = re.split(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}", name)
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]


def _choices(text: str) -> list[str]:
    if "," in text:
        return text.split(",")
    first, last = text.split("..")
    width = len(first) if first.startswith("0") else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]


def _fetch(loader: Downloader, wanted: Wanted) -> Path:
    return loader.fetch(wanted.address)


def _manners(said: Mapping[str, Any]) -> Manners:
    about = said.get("homepage") or ""
    agent = (
        f"avatar_bench/{__version__} (research data set; source {about})" if about else f"avatar_bench/{__version__}"
    )
    size = round(said["max_mib"] * 2**20)
    return Manners(said["per_host"], said["pause"], said["retries"], said["timeout"], size, agent)


def _wanted(said: Mapping[str, Any]) -> list[Wanted]:
    """Give what is to be downloaded, each name and each address once: the first."""
    if said.get("list"):
        found = list(_listed(local(said["list"])))
    elif said.get("urls"):
        sums = said["urls"] if isinstance(said["urls"], Mapping) else dict.fromkeys(said["urls"])
        found = [Wanted(_name(url), Address(url, sums[text] or ""), {}) for text in sums for url in expand(text)]
    else:
        found = list(_named(said["base"], said["names"]))
    seen: set[str | Address] = set()
    kept = []
    for one in found:
        if seen.isdisjoint({one.name, one.address}):  # two threads may not write one file
            group = group_of(said["group"], one.name)
            kept.append(one._replace(known={"group": group} | one.known))
        seen |= {one.name, one.address}
    return kept


def _named(base: str, names: Any) -> Iterator[Wanted]:
    boxes: Mapping[str, Any] = names if isinstance(names, Mapping) else dict.fromkeys(names)
    for pattern, box in boxes.items():
        for name in expand(pattern):
            known = {"box": tuple(box)} if box else {}
            yield Wanted(name, Address(urljoin(base.rstrip("/") + "/", quote(name))), known)


def _listed(file: Path) -> Iterator[Wanted]:
    """Read a CSV with a column url, or one address a line."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {error}.", "Expected a CSV with a column url, or one URL a line."
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "://" in lines[0]:
        yield from (Wanted(_name(line), Address(line), {}) for line in lines if not line.startswith("#"))
        return
    for row in read_table(file, "url").to_dict("records"):
        said = {str(key): str(value) for key, value in row.items()}
        yield Wanted(said.get("name") or _name(said["url"]), Address(said["url"], said.get("sha256", "")), facts(said))


def _name(url: str) -> str:
    """Give the name of what an address leads to: host, query if any, path."""
    try:
        parts = urlsplit(url)
    except ValueError:  # the download tells what is wrong
        return url
    return "/".join(part for part in (parts.netloc, parts.query, unquote(parts.path).lstrip("/")) if part)


def _state(source: Source) -> str:
    file = local(source["list"]) if source.get("list") else None
    return short_hash([file.read_bytes()]) if file and file.is_file() else ""


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


KIND = Kind(read, _state, required=("urls|base|list",), optional=OPTIONS, check=_check)
