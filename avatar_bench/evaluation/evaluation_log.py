"""Log of evaluations: how often external sets have been looked at, on which every choice makes metrics optimistic."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from avatar_bench.files.output_folder import shared_lock
from avatar_bench.results.result import Result

LOG_FILE = "log.jsonl"  # in the folder evaluation/ of a run, or of runs that are compared: a line for each new result
_LOCK = ".log.lock"
_RUNS_BELOW = ("", "*/", "*/*/", "*/*/*/")  # of a folder of runs: itself, runs, runs of sweeps, and their ensembles


@dataclass(frozen=True)
class SetUse:
    """How often an external set was evaluated: by commands, each run of a command counted, and by different runs."""

    times: int
    runs: int


def list_external_sets(result: Result) -> dict[str, str]:
    """Return the names of the external sets that a result was computed on, by the fingerprint of their images."""
    stated = result.provenance.get("evaluated")
    return dict(stated) if isinstance(stated, dict) else {}


def log_result(result: Result, folder: Path, command: str) -> None:
    """Append a line for each external set of a new result to the log in a folder; raise OSError if it is read-only."""
    about, sets = result.provenance, list_external_sets(result)
    if not sets:
        return
    compared = about.get("compared") or [about]
    places = about.get("runs") or [about.get("run")]
    entry = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "runs": [
            {"run": path, "checkpoint_sha256": run_key.get("checkpoint_sha256")}
            for path, run_key in zip(places, compared, strict=True)
        ],
        "block": result.block,
        "view": about.get("view"),
        "where": {name: value for name, value in (about.get("where") or {}).items() if value is not None},
        "options": about.get("options"),
    }
    entries = [entry | {"set": name, "fingerprint": digest} for digest, name in sets.items()]
    lines = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in entries)
    with shared_lock(folder / _LOCK), (folder / LOG_FILE).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            lines = "\n" * (file.read() != b"\n") + lines  # a killed command has left a truncated line
        file.write(lines.encode())


def count_evaluations(logs: Iterable[Path]) -> dict[str, SetUse]:
    """Count the evaluations in logs by the fingerprint of the set; a copied run adds nothing."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for log in logs:
        try:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            continue
        for line in lines:
            try:
                entry = json.loads(line)
                runs = {(str(entry["command"]), str(run["checkpoint_sha256"])) for run in entry["runs"]}
                seen.setdefault(str(entry["fingerprint"]), set()).update(runs)
            except (ValueError, KeyError, TypeError, RecursionError):  # a damaged line
                continue
    return {digest: SetUse(len(uses), len({run for __, run in uses})) for digest, uses in seen.items()}


def find_logs(root: Path) -> list[Path]:
    """Find the logs of the runs, comparisons and ensembles in a folder of runs."""
    return [log for below in _RUNS_BELOW for log in root.glob(f"{below}evaluation/{LOG_FILE}")]
