"""Request options and per-host limits of a downloader."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from avatar_bench import __version__


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
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_turn(self, pause: float) -> float:
        """Reserve the next time for a request and return the seconds until then."""
        with self.lock:
            now = time.monotonic()
            start = max(now, self.free_at)
            self.free_at = start + pause
            return start - now

    def delay(self, seconds: float) -> None:
        """Delay all requests to this server for some seconds."""
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic() + seconds)
