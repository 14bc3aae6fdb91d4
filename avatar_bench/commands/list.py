"""list: name what there is to choose from, one line each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from avatar_bench.config.catalogue import KINDS, choices, summary
from avatar_bench.errors import ConfigError, DataError, did_you_mean
from avatar_bench.runs.record import read_records, table


def list(words: Sequence[str]) -> None:
    """Print the names of one kind with what each is; `runs [FOLDER]` prints what became of the Runs there.

    `-cd DIR` adds a folder of yaml. Raise ConfigError on an unknown kind, DataError where FOLDER is missing.
    """
    kind, *rest = words or [""]
    if kind == "runs":
        print(_runs(Path(rest[0] if rest else "runs"), required=bool(rest)))
    elif kind:
        print(_names(_group(kind), _extra(rest)))
    else:
        print("avatar-bench list KIND, one of:\n  " + "\n  ".join([*KINDS, "runs [FOLDER]"]))


def _group(kind: str) -> str:
    singular = {group: group for group in KINDS.values()}
    group = (singular | KINDS).get(kind)
    if group is None:
        nearest = did_you_mean(kind, [*KINDS, "runs"])
        raise ConfigError(
            f"list {kind}: there is no such kind" + (f"; {nearest}" if nearest else ""),
            f"there are: {' '.join(KINDS)} runs",
        )
    return group


def _extra(words: Sequence[str]) -> Sequence[Path]:
    if not words:
        return ()
    if len(words) != 2 or words[0] not in ("-cd", "--config-dir"):
        raise ConfigError(f"list: cannot read {' '.join(words)}; expected -cd DIR or nothing")
    return (Path(words[1]),)


def _names(group: str, extra: Sequence[Path]) -> str:
    found = choices(group, extra)
    width = max(map(len, found), default=0)
    return "\n".join(f"{name:{width}}  {summary(yaml)}".rstrip() for name, yaml in found.items())


def _runs(root: Path, required: bool) -> str:
    if required and not root.is_dir():
        raise DataError(f"{root}: there is no such folder; expected one that holds runs")
    rows = [("run", "status", "model", "mode", "val macro-F1", "age")]
    for record in read_records(root):
        model, mode = record.choice("model", "backbone"), record.choice("mode", "name")
        rows.append((str(record.folder), record.status, model, mode, record.macro_f1, _age(record.changed)))
    return table(rows) if len(rows) > 1 else f"no runs in {root}/"


def _age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
