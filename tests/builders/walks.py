"""Walks of several commands in one process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

WALK = """
import contextlib, io, json, sys
from avatar_bench.cli.app import main
ends = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    ends.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(ends))
"""


def walk(
    commands: Sequence[Sequence[str]], folder: Path, path: str | None, python: str = sys.executable
) -> list[tuple[int, str, str]]:
    """Run commands one after the other in one process, in a folder; return the code, stdout and stderr of each.

    The package is that of `path` (PYTHONPATH), or with None that of the environment of `python`.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", WALK],
        cwd=folder,
        env=variables | ({} if path is None else {"PYTHONPATH": path}),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [(code, out, err) for code, out, err in json.loads(done.stdout.splitlines()[-1])]
