"""Records of Runs: what their run.json files say, read without opening a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRIC = "val/macro_f1"


@dataclass(frozen=True)
class Record:
    """Hold one run.json: `changed` is its time of change in seconds since 1970, `data` its content."""

    folder: Path
    changed: float
    data: dict[str, Any]

    @property
    def status(self) -> str:
        """Give running, finished, interrupted, failed, diverged, or unreadable."""
        return str(self.data.get("status", "unreadable"))

    @property
    def macro_f1(self) -> str:
        """Give val macro-F1 to four digits, or a dash."""
        return _number((self.data.get("metrics") or {}).get(METRIC), ".4f")

    @property
    def seconds(self) -> str:
        """Give how long the Run took, in whole seconds, or a dash."""
        return _number(self.data.get("seconds"), ".0f")

    def choice(self, group: str, key: str) -> str:
        """Give a name from run.json, else from the run's config.yaml, or a dash."""
        value = self.data.get(group) or _config(self.folder).get(group)
        return str((value.get(key) if isinstance(value, dict) else value) or "-")


def read_records(root: Path) -> list[Record]:
    """Give the Runs at a folder or up to two levels below it, sorted by folder."""
    files = {file for pattern in ("run.json", "*/run.json", "*/*/run.json") for file in root.glob(pattern)}
    return [_read(file) for file in sorted(files)]


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Lay out rows of equal length, the first the heading, in columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _read(file: Path) -> Record:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a run that was killed while it wrote
        data = {}
    return Record(file.parent, file.stat().st_mtime, data if isinstance(data, dict) else {})


def _config(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        config = None
    return config if isinstance(config, dict) else {}


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"
