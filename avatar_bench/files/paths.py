"""Folder names, locations and addresses: hf:OWNER/NAME[@REVISION] is a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from avatar_bench.errors import ConfigError

HUB = "hf:"
_HUB_ADDRESS = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?")


def make_folder_name(text: str) -> str:
    """Convert text to a folder name of letters, digits and . + - _, which need no quoting in shells or options."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "unnamed"


def suggest_slashes(path: str | Path) -> str:
    """Return advice on a path of Windows on another system; an empty string for other paths."""
    slashed = str(path).replace("\\", "/")
    is_shown = os.sep == "/" and slashed != str(path) and slashed.isprintable() and len(slashed) < 300
    return f"Folders are separated by / here: {slashed}" if is_shown else ""


def find_unused_folder(stamp: Path) -> Path:
    """Return the folder, or the first numbered variant of it that does not exist."""
    folder, number = stamp, 2
    while folder.exists():
        folder, number = stamp.with_name(f"{stamp.name}_{number}"), number + 1
    return folder


def cache_root() -> Path:
    """Return the folder for downloads: AVATAR_BENCH_CACHE if set, else the user's cache folder."""
    return Path(os.environ.get("AVATAR_BENCH_CACHE") or platformdirs.user_cache_dir("avatar_bench")).expanduser()


def is_hub_address(text: str) -> bool:
    """Return whether a text is meant as an address of the hub."""
    return text.startswith(HUB)


def parse_hub_address(text: str, option: str) -> tuple[str, str | None]:
    """Return the repository of an address and its revision, None without one; raise ConfigError for another text."""
    match = _HUB_ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option}={text}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION.")
    return match[1], match[2]
