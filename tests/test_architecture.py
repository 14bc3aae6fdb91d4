"""Who may import whom: the layers of the package, read from the source of every module."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "avatar_bench"
# from the top down; what stands in one layer is not to know the rest of its layer, or a layer above
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("commands",),
    ("blocks",),
    ("config", "overrides", "mistakes", "composing"),
    ("assembly",),
    ("audit",),
    ("ensembles",),
    ("runs",),
    ("data", "models"),
    ("reporting",),
    (
        "predictions",
        "verdicts",
        "results",
        "metrics",
        "stats",
        "plots",
        "records",
        "entrants",
        "packages",
        "catalogue",
        "archives",
        "yaml_files",
        "trees",
    ),
    ("errors", "messages", "pages", "cells", "terminal", "memory", "signals", "writing"),
)
CONFIG_USERS = ("__main__", "commands")
HYDRA_USERS = ("__main__", "commands", "config", "composing", "blocks/__init__")
PURE = ("metrics", "stats", "plots")
NO_TORCH = (
    *PURE,
    "predictions",
    "results",
    "records",
    "pages",
    "cells",
    "signals",
    "yaml_files",
    "trees",
    "composing",
    "reporting",
    "catalogue",
    "config",
    "overrides",
    "mistakes",
    "errors",
)


def modules(package: Path) -> dict[str, Path]:
    """Give each module by its path below the package, such as data/splits."""
    files = sorted(package.rglob("*.py"))
    return {file.relative_to(package).with_suffix("").as_posix(): file for file in files}


def imports(file: Path) -> Iterator[str]:
    """Give the dotted name of everything that a file imports, those for types alone left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(part: str) -> int | None:
    return next((number for number, names in enumerate(LAYERS) if part in names), None)


def violations(package: Path) -> list[str]:
    """Give each import that breaks a rule, in words."""
    found = []
    known = modules(package)
    for name, file in known.items():
        part = name.split("/")[0]
        for imported in imports(file):
            words = imported.split(".")
            if words[0] in ("hydra", "omegaconf") and not {part, name} & set(HYDRA_USERS):
                found.append(f"{name} imports {words[0]}")
            if words[0] in ("torch", "torchvision", "timm", "pytorch_lightning") and part in NO_TORCH:
                found.append(f"{name} imports {words[0]}")
            if words[0] == "pathlib" and part in PURE:
                found.append(f"{name} knows of paths")
            if words[0] == "lightning":
                found.append(f"{name} imports lightning beside pytorch_lightning")
            if words[0] != package.name or len(words) == 1 or part == "__init__":
                continue
            other = words[1]
            if layer(other) is None:  # a name of the package itself, such as __version__
                continue
            target = "/".join(words[1:3]) if "/".join(words[1:3]) in known else other
            if other == "config" and part not in CONFIG_USERS:
                found.append(f"{name} imports config")
            if part == other and part in ("blocks", "commands"):
                sibling = target.partition("/")[2]
                if sibling and sibling != "base" and not sibling.startswith("_"):  # those are what siblings share
                    found.append(f"{name} imports its sibling {target}")
            elif part != other and not _above(part, other):
                found.append(f"{name} imports {other}, which is not below it")
    return found


def _above(part: str, other: str) -> bool:
    mine, theirs = layer(part), layer(other)
    assert mine is not None, f"{part} has no layer in this test: give it one"
    assert theirs is not None
    # the lowest modules may use each other where that makes no circle
    return mine < theirs or (mine == theirs and LAYERS[mine] in (LAYERS[3], LAYERS[-2]))


def test_every_module_has_a_layer() -> None:
    parts = {name.split("/")[0] for name in modules(PACKAGE)} - {"__init__"}
    assert {part for part in parts if layer(part) is None} == set()


def test_imports_go_downward_alone() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("data/splits", "from avatar_bench.models.backbones import create_backbone", "imports models"),
        ("models/weights", "import avatar_bench.data.decoding", "imports data"),
        ("runs", "from avatar_bench import blocks", "imports blocks"),
        ("runs", "from avatar_bench.config.schema import TrainConfig", "imports config"),
        ("metrics/classification", "from avatar_bench.runs.run import Run", "imports runs"),
        ("stats", "import torch.nn", "imports torch"),
        ("plots", "from pathlib import Path", "knows of paths"),
        ("models/finetuning", "from omegaconf import DictConfig", "imports omegaconf"),
        ("assembly/datasets", "import hydra.utils", "imports hydra"),
        ("blocks/base", "from avatar_bench.evaluation.registry import blind_test", "its sibling"),
        ("commands/predict", "from avatar_bench.commands.evaluate import evaluate", "its sibling"),
        ("commands/train", "from avatar_bench import __main__", "imports __main__"),
        ("models/training", "from lightning import Trainer", "beside pytorch_lightning"),
    ],
)
def test_a_wrong_import_is_found(module: str, line: str, told: str, tmp_path: Path) -> None:
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / f"{module}.py"
    file.write_text(f"{file.read_text(encoding='utf-8')}\n\ndef late():\n    {line}\n", encoding="utf-8")
    found = set(violations(copy)) - set(violations(PACKAGE))
    assert found
    assert all(line.startswith(f"{module} ") for line in found)
    assert any(told in line for line in found)


def test_an_import_for_types_alone_is_no_import(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n")
    assert list(imports(file)) == ["typing.TYPE_CHECKING"]


@pytest.mark.parametrize("name", modules(PACKAGE))
def test_every_module_says_in_its_first_line_what_it_is(name: str) -> None:
    said = ast.get_docstring(ast.parse(modules(PACKAGE)[name].read_text(encoding="utf-8"))) or ""
    assert said.splitlines()[0].endswith((".", "?"))


def test_no_module_draws_or_writes_where_it_should_only_compute() -> None:
    for name, file in modules(PACKAGE).items():
        if name.startswith("blocks/") or name in PURE:
            calls = {node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)}
            names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
            assert names.isdisjoint({"print", "savefig", "open", "write_text"}), name


def test_no_drawer_of_odds_and_ends() -> None:
    parts = {part for name in modules(PACKAGE) for part in name.split("/")}
    assert parts.isdisjoint({"utils", "util", "helpers", "common", "core", "misc"})
