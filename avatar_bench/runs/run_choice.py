"""Choice of the run that a command works on: a path, an address that a plug-in opens, or the newest."""

from __future__ import annotations

from pathlib import Path

from avatar_bench.config.entries import find_entries, find_entry, find_provider
from avatar_bench.runs.record import check_run, choose_newest_run


def choose_run(ckpt: str | None) -> Path:
    """Return the path of the run that ckpt= names, by default of the newest; raise CheckpointError if it is no run."""
    path = locate_run(ckpt) if ckpt else choose_newest_run()
    check_run(path)  # fail before torch is loaded
    return path


def locate_run(place: str, option: str = "ckpt") -> Path:
    """Return a path, or the folder of the run at an address such as hf:OWNER/NAME, fetched by the entry of its prefix.

    Raise ConfigError, with the name of the plug-in, if the entry is of one that is not there.
    """
    if not is_run_address(place):
        return Path(place)
    entry = find_entry("run_address", place.partition(":")[0], f"{option}={place}")
    with entry.explain_failure():
        return Path(entry.load().fetch_run(place, option))


def is_run_address(text: str) -> bool:
    """Return whether a text begins as the addresses of an entry do, or of a plug-in that is not there."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and (prefix in find_entries("run_address") or find_provider("run_address", prefix) is not None)
