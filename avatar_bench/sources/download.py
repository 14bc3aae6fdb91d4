"""Downloads with retries, limits per host, resuming and verification."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from avatar_bench import __version__
from avatar_bench.console.terminal import format_count
from avatar_bench.errors import DataError
from avatar_bench.files.hashes import sha256_of_file, sha256_of_text

BACKOFF_SECONDS = 0.5  # before the second attempt, doubled for each further one
MAX_WAIT_SECONDS = 120.0  # a server that asks for a longer wait is given up
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # responses that may change soon
DOWNLOAD_CHUNK_BYTES = 2**16


class Address(NamedTuple):
    """The URL of a file, with its expected SHA-256 ("": any)."""

    url: str
    sha256: str = ""


@dataclass
class RequestOptions:
    """Options of requests: times in seconds, at most `per_host` simultaneous requests to one server."""

    per_host: int = 4
    pause: float = 0.1  # between the starts of two requests to one server
    retries: int = 4
    timeout: float = 30.0
    max_bytes: int = 32 * 2**20
    agent: str = f"avatar_bench/{__version__}"


@dataclass
class Host:
    """The state of requests to one server."""

    slots: threading.Semaphore
    free_at: float = 0.0  # on the monotonic clock
    responded: bool = False
    failure: str = ""  # why no more requests are sent


class DownloadError(Exception):
    """A permanent failure of a download."""


class _RetryError(Exception):
    """A failure that may succeed later, after `wait` seconds if the server stated them."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Downloader:
    """A downloader to a folder that keeps finished files and resumes partial ones."""

    def __init__(self, folder: Path, options: RequestOptions) -> None:
        self.place, self.options = folder, options
        self.stop = threading.Event()
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()
        self._pools = {"": _make_pool(options, None)} | {
            scheme: _make_pool(options, proxy) for scheme, proxy in getproxies().items()
        }
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, address: Address) -> Path:
        """Return the file at an address, downloaded unless it exists already; raise DownloadError on failure."""
        url = urlsplit("")
        with suppress(ValueError):
            url = urlsplit(address.url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise DownloadError("not an http or https URL")
        name = sha256_of_text(repr(tuple(address)))[:24]
        target = self.place / f"{name}{Path(url.path).suffix[:8]}"
        if target.is_file():
            return target
        part = self.place / f"{name}.part"
        with self._lock:
            host = self._hosts.setdefault(url.netloc, Host(threading.Semaphore(self.options.per_host)))
        with host.slots:
            self._download(address.url, part, host)
        if address.sha256 and (reason := check_hash(part, address.sha256)):
            part.unlink()
            raise DownloadError(reason)
        part.replace(target)
        _tag_file(part).unlink(missing_ok=True)
        return target

    def _download(self, url: str, part: Path, host: Host) -> None:
        """Send requests until the file is complete or the attempts are used up."""
        for attempt in count(1):
            if host.failure:
                raise DownloadError(host.failure)
            with self._lock:
                start = max(time.monotonic(), host.free_at)
                host.free_at = start + self.options.pause
            self._wait(start - time.monotonic())
            try:
                self._request(url, part, host)
                return
            except _RetryError as error:
                if attempt > self.options.retries or (error.wait or 0) > MAX_WAIT_SECONDS:
                    host_name = urlsplit(url).netloc.rpartition("@")[2]  # without user name and password
                    host.failure = "" if host.responded else f"{host_name} cannot be reached: {error}"
                    raise DownloadError(f"{error}, {format_count(attempt, 'attempt')}") from error
                if error.wait is not None:  # of all requests to this server
                    with self._lock:
                        host.free_at = max(host.free_at, time.monotonic() + error.wait)
                self._wait(error.wait if error.wait is not None else BACKOFF_SECONDS * 2 ** (attempt - 1))

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise DownloadError("stopped")

    def _request(self, url: str, part: Path, host: Host) -> None:
        """Send one request and write the response to `part`; resume at its end if the file is still the same."""
        begun = part.stat().st_size if part.is_file() and _tag_file(part).is_file() else 0
        headers = {"Range": f"bytes={begun}-", "If-Range": _tag_file(part).read_text()} if begun else {}
        try:
            scheme, netloc = urlsplit(url)[:2]
            pool = self._pools[scheme if scheme in self._pools and not proxy_bypass(netloc) else ""]
            headers |= dict(pool.headers)
            response = pool.request("GET", url, headers=headers, preload_content=False, decode_content=False)
        except (exceptions.HTTPError, ValueError) as error:
            raise _classify_failure(error) from error
        host.responded = True
        try:
            self._check(response, part, begun)
            begun = begun if response.status == 206 else 0
            self._check_size(begun + (response.length_remaining or 0), part)
            self._save(response, part, begun)
            response.release_conn()
        except exceptions.HTTPError as error:
            raise _RetryError(f"cut off after {part.stat().st_size if part.is_file() else 0} bytes") from error
        finally:
            response.close()

    def _check(self, response: urllib3.BaseHTTPResponse, part: Path, begun: int) -> None:
        """Raise _RetryError or DownloadError for a response that is not a file."""
        if response.status in RETRY_STATUSES:
            wait = _parse_retry_after(response.headers.get("Retry-After", ""))
            wait_text = f", asks to wait {wait:.0f} s" if wait is not None else ""
            raise _RetryError(f"HTTP {response.status} {response.reason}{wait_text}", wait)
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {begun}-")
        if response.status == 416 or (response.status == 206 and not (begun and continued)):
            part.unlink(missing_ok=True)  # the partial file does not match the current one
            raise _RetryError(f"HTTP {response.status} to a range")
        if response.status not in (200, 206):
            raise DownloadError(f"HTTP {response.status} {response.reason}")

    def _save(self, response: urllib3.BaseHTTPResponse, part: Path, begun: int) -> None:
        tag = response.headers.get("ETag", "")
        strong = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        _tag_file(part).write_text(strong) if strong else _tag_file(part).unlink(missing_ok=True)
        with part.open("r+b" if begun else "wb") as file:
            file.seek(begun)
            for chunk in response.stream(DOWNLOAD_CHUNK_BYTES, decode_content=False):
                begun += len(chunk)
                self._check_size(begun, part)
                if self.stop.is_set():
                    raise DownloadError("stopped")
                file.write(chunk)

    def _check_size(self, size: int, part: Path) -> None:
        if size > self.options.max_bytes:
            part.unlink(missing_ok=True)
            raise DownloadError(f"larger than {self.options.max_bytes / 2**20:g} MiB")


def download_file(address: Address, folder: Path, max_bytes: int) -> Path:
    """Download one large file to `folder`; raise DataError on failure."""
    try:
        return Downloader(folder, RequestOptions(max_bytes=max_bytes)).fetch(address)
    except DownloadError as error:
        reason = f"{address.url} could not be downloaded: {error}."
        raise DataError(reason, "Check the connection and run the same command again.") from error


def check_hash(file: Path, sha256: str) -> str:
    """Describe how a file differs from its SHA-256; return "" if it matches."""
    digest = sha256_of_file(file)
    return "" if digest == sha256.lower() else f"its sha256 is {digest}, expected {sha256}"


def _make_pool(options: RequestOptions, proxy: str | None) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "maxsize": options.per_host,
        "headers": {"User-Agent": options.agent, "Accept-Encoding": "identity"},
        "timeout": urllib3.Timeout(connect=min(options.timeout, 10.0), read=options.timeout),
        "retries": urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5),
    }
    if proxy is None:
        return urllib3.PoolManager(**settings)
    return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **settings)


def _tag_file(part: Path) -> Path:
    return part.with_suffix(".tag")


def _classify_failure(error: Exception) -> Exception:
    """Return the error for a failed request: permanent (address, redirect, certificate), or one worth a retry."""
    cause = error.reason if isinstance(error, exceptions.MaxRetryError) and error.reason else error
    words = " ".join(str(cause).split())[:200]
    if isinstance(cause, exceptions.NewConnectionError | exceptions.ProtocolError):
        return _RetryError(words.rpartition(": ")[2])
    if isinstance(cause, exceptions.TimeoutError):
        return _RetryError("timed out")
    if isinstance(cause, exceptions.LocationValueError):
        return DownloadError("redirects to something that is not an http or https URL")
    return DownloadError(words)


def _parse_retry_after(text: str) -> float | None:
    """Parse a Retry-After header, in seconds, also fractions, or as a date; urllib3 would cap it at six hours."""
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
