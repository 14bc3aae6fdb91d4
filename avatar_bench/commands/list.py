"""list: print the available choices or runs, one per line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from avatar_bench.config.catalogue import LISTED_GROUPS, describe_entry, find_choices, find_conf_folder, read_summary
from avatar_bench.config.entries import KINDS, find_entries
from avatar_bench.errors import ConfigError, DataError, suggest_names
from avatar_bench.runs.record import format_table, read_records


def list(words: Sequence[str]) -> None:
    """Print the choices of one kind with their summaries; `runs [FOLDER]` prints the state of the runs there.

    `-cd DIR` adds a folder of yaml. Raise ConfigError for an unknown kind, DataError if FOLDER is missing.
    """
    kind, *rest = words or [""]
    if kind == "runs":
        print(_format_runs(Path(rest[0] if rest else "runs"), required=bool(rest)))
    elif kind:
        _check_rest(rest)
        print(_format_choices(_find_group(kind)))
    else:
        print("avatar-bench list KIND, one of:\n  " + "\n  ".join([*LISTED_GROUPS, "runs [FOLDER]"]))


def _find_group(kind: str) -> str:
    singular = {group: group for group in LISTED_GROUPS.values()}
    group = (singular | LISTED_GROUPS).get(kind)
    if group is None:
        nearest = suggest_names(kind, [*LISTED_GROUPS, "runs"])
        raise ConfigError(
            f"list {kind}: no such kind" + (f"; {nearest}" if nearest else ""),
            f"available: {' '.join(LISTED_GROUPS)} runs",
        )
    return group


def _check_rest(words: Sequence[str]) -> None:
    if words and (len(words) != 2 or words[0] not in ("-cd", "--config-dir")):
        raise ConfigError(f"list: unexpected {' '.join(words)}; expected -cd DIR or nothing")


def _format_choices(group: str) -> str:
    if group in KINDS and not (find_conf_folder() / group).is_dir():
        found = {name: describe_entry(entry) for name, entry in find_entries(group).items()}
    else:
        found = {name: read_summary(yaml) for name, yaml in find_choices(group).items()}
    width = max(map(len, found), default=0)
    return "\n".join(f"{name:{width}}  {summary}".rstrip() for name, summary in found.items())


def _format_runs(root: Path, required: bool) -> str:
    if required and not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder of runs")
    rows = [("run", "status", "model", "mode", "val macro-F1", "age")]
    for record in read_records(root):
        model, mode = record.choice("model", "backbone"), record.choice("mode", "name")
        rows.append((str(record.folder), record.status, model, mode, record.macro_f1, _format_age(record.changed)))
    return format_table(rows) if len(rows) > 1 else f"no runs in {root}/"


def _format_age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
