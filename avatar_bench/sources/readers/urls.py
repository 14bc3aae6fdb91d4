"""Images at URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from avatar_bench.config.options import option, path_option
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources import reader
from avatar_bench.sources.download import Address, Downloader, DownloadError, RequestOptions
from avatar_bench.sources.reader import Source, SourceImage, SourceJob, SourceReader


class ImageDownload(NamedTuple):
    """An image to download, with its known fields of a SourceImage."""

    name: str
    address: Address
    known: dict[str, Any]


@dataclass(kw_only=True)
class Urls(SourceReader):
    alternatives = ("urls", "base", "list")

    urls: Any = option(None, help="addresses, or {address: sha256}; {a,b} and {0..99} stand for several")
    base: str | None = option(None, help="the address of a folder, with names")
    list: str | None = path_option("a CSV with a column url, or a text file with one URL a line")
    names: Any = option(None, help="files below base, or {name: box}")
    group: str | None = option(None, help="a regular expression whose first group in a name is the group of the image")
    parallel: int = option(8, help="downloads at a time")
    per_host: int = option(4, help="downloads at a time from one host")
    pause: float = option(0.1, help="seconds between requests to one host")
    retries: int = option(4, help="further tries of a download that failed")
    timeout: float = option(30, help="seconds without an answer")
    max_mib: float = option(32, help="MiB of an image")

    def read(self, job: SourceJob) -> Iterator[SourceImage]:
        """Yield the images in their order, and quarantine failed downloads; raise DataError if all fail."""
        listed = _list_downloads(self)
        wanted = [download for download in listed if download.name not in job.done]
        homepage = job.source.get("homepage")
        agent = RequestOptions.agent + (f" (research data set; source {homepage})" if homepage else "")
        limits = {name: getattr(self, name) for name in ("per_host", "pause", "retries", "timeout")}
        loader = Downloader(job.place, RequestOptions(**limits, max_bytes=round(self.max_mib * 2**20), agent=agent))
        had, reason = len(wanted) < len(listed), ""
        for download, content in zip(wanted, _fetch_in_background(loader, wanted, self.parallel), strict=True):
            if isinstance(content, DownloadError):
                reason = reason or f"{download.address.url}: {content}"
                job.quarantine.append((download.name, str(content)))
                continue
            had = True
            yield SourceImage(name=download.name, content=content, **download.known)
        if reason and not had:
            again = "Check the connection and run the same command again."
            raise DataError(f"source.{job.name}: nothing could be downloaded.", reason, again)

    def check(self, name: str, source: Source) -> None:
        """Raise ConfigError for a base without names, the reverse, or a limit of 0."""
        if self.base and not self.names:
            example = 'For example: names: ["{female,male}/{0..99}.jpg"]'
            raise ConfigError(f"source.{name}.base needs source.{name}.names.", example)
        if self.names and not self.base:
            raise ConfigError(f"source.{name}.names needs source.{name}.base, the URL of their folder.")
        for key in ("parallel", "per_host", "timeout", "max_mib"):
            if not (isinstance(value := getattr(self, key), int | float) and value > 0):
                raise ConfigError(f"source.{name}.{key}={value}: expected a number above 0.")

    def hash_state(self) -> str:
        """Return a hash that changes with the content of the list."""
        file = reader.resolve_path(self.list) if self.list else None
        return reader.hash_facts([file.read_bytes()]) if file and file.is_file() else ""


def _fetch_in_background(
    loader: Downloader, wanted: Sequence[ImageDownload], workers: int
) -> Iterator[Path | DownloadError]:
    """Download in several threads; yield the files or errors in order, then stop the threads.

    They are daemons: unlike those of an executor, they do not make an interrupted program wait for a slow server.
    """

    def fetch(download: ImageDownload) -> Path | DownloadError:
        try:
            return loader.fetch(download.address)
        except DownloadError as error:
            return error

    with ThreadPool(max(1, min(workers, len(wanted)))) as pool:
        try:
            yield from pool.imap(fetch, wanted)
        finally:
            loader.stop.set()


def expand_pattern(name: str) -> list[str]:
    """List the names that a pattern with {a,b} and {0..99} matches (a leading 0 keeps the width)."""
    choices = []
    for number, part in enumerate(re.split(r"\{([^{}]*,[^{}]*|\d+\.\.\d+)\}", name)):
        first, _, last = part.partition("..")
        if number % 2 == 0:  # between braces
            choices.append([part])
        elif "," in part:
            choices.append(part.split(","))
        else:
            width = len(first) if first.startswith("0") else 0
            choices.append([f"{index:0{width}}" for index in range(int(first), int(last) + 1)])
    return ["".join(words) for words in product(*choices)]


def _list_downloads(source: Urls) -> list[ImageDownload]:
    """List the downloads, with only the first of equal names and equal addresses."""
    if source.list:
        downloads = list(_read_list(reader.resolve_path(source.list)))
    elif source.urls:
        sums = source.urls if isinstance(source.urls, Mapping) else dict.fromkeys(source.urls)
        downloads = [
            ImageDownload(_name_of_url(url), Address(url, sums[text] or ""), {})
            for text in sums
            for url in expand_pattern(text)
        ]
    else:
        boxes = source.names if isinstance(source.names, Mapping) else dict.fromkeys(source.names)
        folder = str(source.base).rstrip("/") + "/"
        downloads = [
            ImageDownload(name, Address(urljoin(folder, quote(name))), {"box": tuple(box)} if box else {})
            for pattern, box in boxes.items()
            for name in expand_pattern(pattern)
        ]
    seen: set[str | Address] = set()
    kept = []
    for download in downloads:
        if seen.isdisjoint({download.name, download.address}):  # two threads must not write one file
            kept.append(
                download._replace(known={"group": reader.find_group(source.group, download.name)} | download.known)
            )
        seen |= {download.name, download.address}
    return kept


def _read_list(file: Path) -> Iterator[ImageDownload]:
    """Read a CSV with a column url, or a text file with one URL a line."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = f"{file} cannot be read: {error}."
        raise DataError(reason, "Expected a CSV with a column url, or one URL a line.") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and "://" in lines[0]:
        yield from (ImageDownload(_name_of_url(line), Address(line), {}) for line in lines if not line.startswith("#"))
        return
    for row in reader.read_rows(file, "url"):
        address = Address(row["url"], row.get("sha256", ""))
        yield ImageDownload(row.get("name") or _name_of_url(row["url"]), address, reader.extract_fields(row))


def _name_of_url(url: str) -> str:
    """Return the name of an image at a URL: host, query if any, path."""
    try:
        parts = urlsplit(url)
    except ValueError:  # the download reports the error
        return url
    return "/".join(part for part in (parts.netloc, parts.query, unquote(parts.path).lstrip("/")) if part)
