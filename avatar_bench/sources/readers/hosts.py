"""How a downloader behaves towards the servers it asks."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from avatar_bench import __version__


@dataclass
class RequestOptions:
    """Hold how a downloader behaves: times in seconds, `per_host` requests at once to one server."""

    per_host: int = 4
    pause: float = 0.1  # between the starts of two requests to one server
    retries: int = 4
    timeout: float = 30.0
    max_bytes: int = 32 * 2**20
    agent: str = f"avatar_bench/{__version__}"


@dataclass
class Host:
    """Keep the requests to one server apart."""

    slots: threading.Semaphore
    free_at: float = 0.0  # on the monotonic clock
    answered: bool = False
    dead: str = ""  # why it is not asked again
    lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, pause: float) -> float:
        """Take the next turn and give the seconds to wait for it."""
        with self.lock:
            now = time.monotonic()
            start = max(now, self.free_at)
            self.free_at = start + pause
            return start - now

    def hold(self, seconds: float) -> None:
        """Let nobody ask this server for some seconds."""
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic() + seconds)
