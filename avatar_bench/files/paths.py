"""Names and places of folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs


def make_folder_name(text: str) -> str:
    """Give a text as a folder's name: letters, digits and . + - _, which no shell and no option takes amiss."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "unnamed"


def find_unused_folder(stamp: Path) -> Path:
    """Give a folder, or where there is one of that name another with a number."""
    folder, number = stamp, 2
    while folder.exists():
        folder, number = stamp.with_name(f"{stamp.name}_{number}"), number + 1
    return folder


def cache_root() -> Path:
    """Give the folder for downloads: AVATAR_BENCH_CACHE where it is set, else the user's cache folder."""
    return Path(os.environ.get("AVATAR_BENCH_CACHE") or platformdirs.user_cache_dir("avatar_bench")).expanduser()
