"""Choice of the run that a command works on: a path, an address of the hub, or the newest."""

from __future__ import annotations

from pathlib import Path

from avatar_bench.files.hub_address import is_hub_address
from avatar_bench.runs.record import check_run, choose_newest_run


def choose_run(ckpt: str | None) -> Path:
    """Return the path of the run that ckpt= names, by default of the newest; raise CheckpointError if it is no run."""
    path = locate_run(ckpt) if ckpt else choose_newest_run()
    check_run(path)  # fail before torch is loaded
    return path


def locate_run(place: str, option: str = "ckpt") -> Path:
    """Return a path, or the folder in the cache of a run on the hub."""
    if not is_hub_address(place):
        return Path(place)
    from avatar_bench.runs.hub_repository import fetch_run  # loads torch

    return fetch_run(place, option)
