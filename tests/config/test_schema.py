"""Options of commands, each stated in one place."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_choices, find_commands, find_recipe
from avatar_bench.config.options import find_option, get_default, get_nested, iterate_options
from avatar_bench.config.schema import find_schema
from avatar_bench.files.document import read_yaml
from tests.builders.walks import walk

ROOT = Path(__file__).parents[2]
COMMANDS = [name for name in find_commands() if name not in PLAIN_COMMANDS]


def unstated(schema, key):
    """Yield the fields that are no options and hold none."""
    stated = {member.name for member, _ in iterate_options(schema)}
    for member in fields(schema):
        nested = get_nested(member)
        if nested is not None:
            yield from unstated(nested, f"{key}.{member.name}")
        elif member.name not in stated:
            yield f"{key}.{member.name}"


def test_every_option_is_stated_with_its_help_and_is_found_by_its_key():
    assert [name for command in COMMANDS for name in unstated(find_schema(command), command)] == []
    for command, key, name in (
        ("train", "data.split.seed", "seed"),
        ("train", "optimizer.options.beta", "options"),
        ("train", "data", None),
        ("report", "seed", None),
        ("import", "columns.path", "columns"),  # of a detector
    ):
        option = find_option(find_schema(command), key)
        assert (option and option[0].name) == name


@pytest.mark.slow
def test_an_option_added_in_one_place_is_found_everywhere(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "avatar_bench", copy / "avatar_bench", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copytree(ROOT / "conf", copy / "conf")
    schema = copy / "avatar_bench" / "commands" / "predict.py"
    text, head = schema.read_text(encoding="utf-8"), "class PredictConfig:\n"
    added = '    tiles: int = option(2, help="tiles per side", range=(1, 9))\n'
    assert text.count(head) == 1
    schema.write_text(text.replace(head, head + added), encoding="utf-8")
    words = ["predict", "input=a", "output=a.csv"]
    commands = [["predict", "--help"], ["completion", "query", "bash", "predict", "til"]]
    commands += [[*words, "tiles=3", "--cfg", "job"], [*words, "tiles=10"], [*words, "tiles=x"]]
    (_, helped, _), (_, completed, _), (_, composed, _), *refused = walk(commands, tmp_path, str(copy))
    assert "  tiles=2                             tiles per side; 1 to 9\n" in helped
    assert completed.split() == ["tiles="]
    assert "tiles: 3\n" in composed
    expected = ["tiles=10: expected 1 to 9", "tiles: expected a whole number, got x"]
    assert [(code, err.strip()) for code, _, err in refused] == [(2, text) for text in expected]
    script = ROOT / "scripts" / "options_page.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['render_options']())"
    environment = os.environ | {"PYTHONPATH": str(copy)}
    page = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert "| `tiles` | `2` | tiles per side; 1 to 9 |" in page


def list_values(values, prefix):
    """Yield the options that a yaml sets, with their values."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from list_values(value, f"{prefix}{name}.")
        elif name != "defaults":
            yield f"{prefix}{name}", value


def test_the_yaml_of_commands_and_groups_repeats_no_default():
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
