"""Processor cores and memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")  # of a container: its own limits


def count_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_memory() -> tuple[int, int]:
    """Return the memory that this process may use, and how much of it is free, in bytes."""
    memory = psutil.virtual_memory()
    limit, used = _read_limit("memory.max"), _read_limit("memory.current")
    if limit is None or limit >= memory.total:
        return memory.total, memory.available
    return limit, min(memory.available, max(0, limit - (used or 0)))


def _read_limit(name: str) -> int | None:
    """Return a number that Linux keeps for a container; None if there is none."""
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
