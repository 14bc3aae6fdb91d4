"""Options of commands, each stated in one place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_choices, find_commands, find_recipe
from avatar_bench.config.options import find_option, get_default, get_nested, iterate_options
from avatar_bench.config.schema import find_schema
from avatar_bench.files.yaml_io import read_yaml
from tests.builders.walks import walk

ROOT = Path(__file__).parents[2]
COMMANDS = [name for name in find_commands() if name not in PLAIN_COMMANDS]


def unstated(schema: type, place: str) -> Iterator[str]:
    """Yield the fields that are no options and hold none."""
    stated = {member.name for member, _ in iterate_options(schema)}
    for member in fields(schema):
        nested = get_nested(member)
        if nested is not None:
            yield from unstated(nested, f"{place}.{member.name}")
        elif member.name not in stated:
            yield f"{place}.{member.name}"


def test_every_option_is_stated_with_its_help() -> None:
    assert [name for command in COMMANDS for name in unstated(find_schema(command), command)] == []


def test_an_option_added_in_one_place_is_found_everywhere(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "avatar_bench", copy / "avatar_bench", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copytree(ROOT / "conf", copy / "conf")
    schema = copy / "avatar_bench" / "commands" / "predict.py"
    text, place = schema.read_text(encoding="utf-8"), "class PredictConfig:\n"
    added = '    tiles: int = option(2, help="tiles per side", range=(1, 9))\n'
    assert text.count(place) == 1
    schema.write_text(text.replace(place, place + added), encoding="utf-8")

    asked = ["predict", "input=a", "output=a.csv"]
    commands = [["predict", "--help"], ["completion", "query", "bash", "predict", "til"]]
    commands += [[*asked, "tiles=3", "--cfg", "job"], [*asked, "tiles=10"], [*asked, "tiles=x"]]
    (_, helped, _), (_, completed, _), (_, composed, _), *refused = walk(commands, tmp_path, str(copy))
    assert "  tiles=2                             tiles per side; 1 to 9\n" in helped
    assert completed.split() == ["tiles="]
    assert "tiles: 3\n" in composed
    expected = ["tiles=10: expected 1 to 9", "tiles: expected a whole number, got x"]
    assert [(code, err.strip()) for code, _, err in refused] == [(2, text) for text in expected]
    script = ROOT / "scripts" / "options_page.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['render_options']())"
    page = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "| `tiles` | `2` | tiles per side; 1 to 9 |" in page


def list_values(values: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the options that a yaml sets, with their values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from list_values(value, f"{place}{name}.")
        elif name != "defaults":
            yield f"{place}{name}", value


def test_the_yaml_of_commands_and_groups_repeats_no_default() -> None:
    repeated = []
    groups = {
        "pretrain": ("method",),
        "train": ("callbacks", "logger", "mode", "model", "optimizer", "schedule", "trainer"),
    }
    for command in COMMANDS:
        files = [file for group in groups.get(command, ()) for file in find_choices(group).values()]
        recipe = find_recipe(command)
        for file in [*([recipe] if recipe else []), *files]:
            at_top = file == recipe or "@package _global_" in file.read_text(encoding="utf-8")
            for key, value in list_values(read_yaml(file) or {}, "" if at_top else f"{file.parent.name}."):
                option = find_option(find_schema(command), key)
                if option is not None and get_default(option[0]) == value:
                    repeated.append(f"{file.name}: {key}={value}")
    assert repeated == []


@pytest.mark.parametrize(
    ("command", "key", "name"),
    [
        ("train", "data.split.seed", "seed"),
        ("train", "optimizer.options.beta", "options"),
        ("train", "data", None),
        ("report", "seed", None),
        ("import", "columns.path", "columns"),  # of a detector
    ],
)
def test_an_option_is_found_by_its_key(command: str, key: str, name: str | None) -> None:
    option = find_option(find_schema(command), key)
    assert (option and option[0].name) == name
