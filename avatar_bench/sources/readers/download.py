"""Downloads that take care: of the server, of what was begun before, and of what comes back."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    TimeoutError,
)

from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.sources.readers.hosts import Host, RequestOptions

BACKOFF_SECONDS = 0.5  # seconds before the second attempt, doubled for each one after it
MAX_WAIT_SECONDS = 120.0  # seconds; a server that asks for a longer wait is left alone
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another a little later
DOWNLOAD_CHUNK_BYTES = 2**16


class Address(NamedTuple):
    """Name a file on a server, with the SHA-256 it must have ("": any)."""

    url: str
    sha256: str = ""


class DownloadError(Exception):
    """Say why a file cannot be had, however often one asks."""


class _RetryError(Exception):
    """Say why an attempt failed that may succeed later, and after how many seconds if the server said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Downloader:
    """Fetch files into a folder; finished ones stay there, begun ones go on where they stopped."""

    def __init__(self, place: Path, manners: RequestOptions, stop: threading.Event | None = None) -> None:
        self.place, self.manners = place, manners
        self.stop = stop or threading.Event()
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()
        self._pools = {"": _make_pool(manners, None)} | {
            way: _make_pool(manners, proxy) for way, proxy in getproxies().items()
        }
        place.mkdir(parents=True, exist_ok=True)

    def fetch(self, address: Address) -> Path:
        """Give the file at an address, downloaded unless it lies there already; raise RefusedError where that fails."""
        url = _parse_url(address.url)
        name = hashlib.sha256(repr(tuple(address)).encode()).hexdigest()[:24]
        target = self.place / f"{name}{Path(url.path).suffix[:8]}"
        if target.is_file():
            return target
        part = self.place / f"{name}.part"
        host = self._host(url.netloc)
        with host.slots:
            self._persist(address.url, part, host)
        if address.sha256 and (reason := check_hash(part, address.sha256)):
            part.unlink()
            raise DownloadError(reason)
        part.replace(target)
        _tag_file(part).unlink(missing_ok=True)
        return target

    def _host(self, netloc: str) -> Host:
        with self._lock:
            return self._hosts.setdefault(netloc, Host(threading.Semaphore(self.manners.per_host)))

    def _persist(self, url: str, part: Path, host: Host) -> None:
        """Ask until the file is complete, or the attempts are used up."""
        for attempt in count(1):
            if host.dead:
                raise DownloadError(host.dead)
            self._wait(host.turn(self.manners.pause))
            try:
                self._ask(url, part, host)
                return
            except _RetryError as error:
                if attempt > self.manners.retries or (error.wait or 0) > MAX_WAIT_SECONDS:
                    place = urlsplit(url).netloc.rpartition("@")[2]  # without a user's name and password
                    host.dead = "" if host.answered else f"{place} cannot be reached: {error}"
                    raise DownloadError(f"{error}, {attempt} attempts") from error
                if error.wait is not None:
                    host.hold(error.wait)
                self._wait(error.wait if error.wait is not None else BACKOFF_SECONDS * 2 ** (attempt - 1))

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise DownloadError("stopped")

    def _ask(self, url: str, part: Path, host: Host) -> None:
        """Make one request and write what comes back to `part`, from where that ends if the file is still the same."""
        begun = part.stat().st_size if part.is_file() and _tag_file(part).is_file() else 0
        headers = {"Range": f"bytes={begun}-", "If-Range": _tag_file(part).read_text()} if begun else {}
        try:
            pool = self._pool_for(urlsplit(url))
            headers |= dict(pool.headers)
            answer = pool.request("GET", url, headers=headers, preload_content=False, decode_content=False)
        except (HTTPError, ValueError) as error:
            raise _classify_failure(error) from error
        host.answered = True
        try:
            self._check(answer, part, begun)
            begun = begun if answer.status == 206 else 0
            self._check_size(begun + (answer.length_remaining or 0), part)
            self._save(answer, part, begun)
            answer.release_conn()
        except HTTPError as error:
            raise _RetryError(f"cut off after {part.stat().st_size if part.is_file() else 0} bytes") from error
        finally:
            answer.close()

    def _pool_for(self, url: SplitResult) -> urllib3.PoolManager:
        return self._pools[url.scheme if url.scheme in self._pools and not proxy_bypass(url.netloc) else ""]

    def _check(self, answer: urllib3.BaseHTTPResponse, part: Path, begun: int) -> None:
        """Raise _AgainError or RefusedError for an answer that holds no file."""
        if answer.status in RETRY_STATUSES:
            wait = _parse_retry_after(answer.headers.get("Retry-After"))
            asked = f", asks to wait {wait:.0f} s" if wait is not None else ""
            raise _RetryError(f"HTTP {answer.status} {answer.reason}{asked}", wait)
        continued = answer.headers.get("Content-Range", "").startswith(f"bytes {begun}-")
        if answer.status == 416 or (answer.status == 206 and not (begun and continued)):
            part.unlink(missing_ok=True)  # what was begun does not fit what is there now
            raise _RetryError(f"HTTP {answer.status} to a range")
        if answer.status not in (200, 206):
            raise DownloadError(f"HTTP {answer.status} {answer.reason}")

    def _save(self, answer: urllib3.BaseHTTPResponse, part: Path, begun: int) -> None:
        tag = answer.headers.get("ETag", "")
        strong = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
        _tag_file(part).write_text(strong) if strong else _tag_file(part).unlink(missing_ok=True)
        with part.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            for chunk in answer.stream(DOWNLOAD_CHUNK_BYTES, decode_content=False):
                begun += len(chunk)
                self._check_size(begun, part)
                if self.stop.is_set():
                    raise DownloadError("stopped")
                file.write(chunk)

    def _check_size(self, size: int, part: Path) -> None:
        if size > self.manners.max_bytes:
            part.unlink(missing_ok=True)
            raise DownloadError(f"larger than {self.manners.max_bytes / 2**20:g} MiB")


def download_file(address: Address, place: Path, max_bytes: int) -> Path:
    """Download one large file into `place`; raise DataError where it cannot be had."""
    loader = Downloader(place, RequestOptions(max_bytes=max_bytes))
    try:
        return loader.fetch(address)
    except DownloadError as error:
        raise DataError(
            f"{address.url} could not be downloaded: {error}.", "Connect and run the same again."
        ) from error


def check_hash(file: Path, sha256: str) -> str:
    """Say how a file differs from its SHA-256, or nothing."""
    found = sha256_of_file(file)
    return "" if found == sha256.lower() else f"its sha256 is {found}, expected {sha256}"


def _make_pool(manners: RequestOptions, proxy: str | None) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "maxsize": manners.per_host,
        "headers": {"User-Agent": manners.agent, "Accept-Encoding": "identity"},
        "timeout": urllib3.Timeout(connect=min(manners.timeout, 10.0), read=manners.timeout),
        "retries": urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5),
    }
    if proxy is None:
        return urllib3.PoolManager(**settings)
    return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **settings)


def _parse_url(address: str) -> SplitResult:
    with suppress(ValueError):
        url = urlsplit(address)
        if url.scheme in ("http", "https") and url.hostname:
            return url
    raise DownloadError("not an address of http or https")


def _tag_file(part: Path) -> Path:
    return part.with_suffix(".tag")


def _classify_failure(error: Exception) -> Exception:
    """Tell a request that failed for good (address, redirect, certificate) from one that may yet succeed."""
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    words = " ".join(str(cause).split())[:200]
    if isinstance(cause, NewConnectionError | ProtocolError):
        return _RetryError(words.rpartition(": ")[2])
    if isinstance(cause, TimeoutError):
        return _RetryError("timed out")
    if isinstance(cause, LocationValueError):
        return DownloadError("leads to what is no address of http or https")
    return DownloadError(words)


def _parse_retry_after(text: str | None) -> float | None:
    """Read Retry-After, seconds or a date."""
    if not text:
        return None
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
