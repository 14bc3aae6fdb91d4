"""list: print the available choices or runs, one per line."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from avatar_bench.config.catalogue import LISTED_GROUPS, describe_augmentation_steps, describe_choices
from avatar_bench.errors import ConfigError, DataError, suggest_names
from avatar_bench.runs.record import format_table, read_records


def execute(words: Sequence[str]) -> None:
    """Print the choices of one kind with their summaries; `runs [FOLDER]` prints the state of the runs there.

    `-cd DIR` adds a folder of yaml. Raise ConfigError for an unknown kind, DataError if FOLDER is missing.
    """
    kind, *rest = words or [""]
    if kind == "runs":
        root = rest[0].removeprefix("runs=") if rest else "runs"
        print(_format_runs(Path(root), required=bool(rest)))
    elif kind:
        if rest and (len(rest) != 2 or rest[0] not in ("-cd", "--config-dir")):
            raise ConfigError(f"list: unexpected {' '.join(rest)}; expected -cd DIR or nothing")
        group = _find_group(kind)
        choices = describe_choices(group) | (describe_augmentation_steps() if group == "augmentation" else {})
        width = max(map(len, choices), default=0)
        print("\n".join(f"{name:{width}}  {what}".rstrip() for name, what in choices.items()) or "none")
    else:
        print("avatar-bench list KIND, one of:\n  " + "\n  ".join([*LISTED_GROUPS, "runs [FOLDER]"]))


def _find_group(kind: str) -> str:
    groups = {group: group for group in LISTED_GROUPS.values()} | LISTED_GROUPS  # singular and plural
    if kind not in groups:
        reason = f"list {kind}: no such kind{suggest_names(kind.partition('=')[0], [*LISTED_GROUPS, 'runs'])}"
        raise ConfigError(reason, f"available: {' '.join(LISTED_GROUPS)} runs")
    return groups[kind]


def _format_runs(root: Path, required: bool) -> str:
    if required and not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder of runs")
    rows = [("run", "status", "model", "mode", "val macro-F1", "n", "age")]
    for run in read_records(root):
        model, mode = run.choice("model", "backbone"), run.choice("mode", "name")
        rows.append((str(run.folder), run.status, model, mode, *run.numbers[:2], _format_age(run.changed)))
    return format_table(rows) if len(rows) > 1 else f"no runs in {root}/"


def _format_age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
