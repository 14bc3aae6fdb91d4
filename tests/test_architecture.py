"""Layers and names of the package, read from the source of every module."""

import ast
import re
import shutil
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest
import yaml

from avatar_bench.config.entries import KINDS

PACKAGE = Path(__file__).parents[1] / "avatar_bench"
CONF = PACKAGE.parent / "conf"
# from the top down: a module imports from its own package and from the lines below, never from the rest of its line
LAYERS = (
    ("__main__",),
    ("cli",),
    ("plugins",),
    ("commands",),
    tuple(f"config/{name}" for name in ("schema", "rules", "composition", "path_quoting")),
    ("reporting",),
    ("evaluation",),
    ("training",),  # opens the data set that it trains on
    ("sources",),
    ("runs", "audit"),
    ("inference",),
    ("data", "models"),
    ("results",),
    ("metrics",),
    ("config",),  # what needs no Hydra: the catalogue of yaml, overrides, validation, error messages
    ("i18n",),
    ("user_entries",),
    ("config/entries",),
    ("files", "console"),
    ("config/options",),
    ("errors",),
)
# the schema imports Hydra; below it, these still read Hydra's own configuration
HYDRA_USERS = (
    *("cli", "commands", "config/schema", "config/rules", "config/composition", "config/instantiate"),
    *("training/job", "training/run_folder"),
)
PURE = ("metrics",)
NO_TORCH = (
    *("metrics", "results", "files", "console", "i18n", "config", "reporting", "errors"),
    *("runs/record", "runs/labels"),
)
TORCH_USERS = ("reporting/grad_cam_overlays",)  # within NO_TORCH: imported only where overlays are asked for
# entries found by kind and name, such as noise, which is a corruption and an augmentation
FOUND_BY_KIND = set(KINDS.values()) - {KINDS["block"]}
# at most so many lines and statements of each package; a commit that raises one says why
BUDGETS = {
    ("commands", "cli", "console"): (2_898, 1_981),
    ("config",): (1_984, 1_366),
    ("data",): (5_289, 3_624),
    ("models",): (2_275, 1_533),
    ("inference", "runs"): (6_464, 4_253),
    ("reporting",): (3_167, 2_140),
    ("results", "i18n", "files"): (2_247, 1_493),
    ("metrics", "audit"): (5_809, 3_619),
    ("sources",): (2_579, 1_891),
    ("training",): (2_731, 1_911),
    ("evaluation",): (11_107, 7_821),
    ("plugins",): (5_329, 3_500),
}
MOST_MODULES = 282  # outside plug-ins
DRAWERS = {"utils", "util", "helpers", "common", "core", "misc", "shared"}
# constants that every module of a kind states for itself
STATED_BY_EACH = {"KIND", "PARAMETERS", "RESEMBLES", "__all__", "__version__"}


def modules(package):
    """Return each module's file by its path below the package, such as data/splits; a package by its folder."""
    names = {file.relative_to(package).with_suffix("").as_posix(): file for file in sorted(package.rglob("*.py"))}
    return {name.removesuffix("/__init__"): file for name, file in names.items()}


def parse(file):
    return _parse(file.read_text(encoding="utf-8"))


_parse = cache(ast.parse)  # most modules are read by many tests, also in copies of the package


def imports(file):
    """Return the dotted name of everything that a file imports, except for types alone."""
    return _list_imports(file.read_text(encoding="utf-8"))


@cache
def _list_imports(text):
    tree, names = _parse(text), []
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
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in the module that begins {text[:60]!r}"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def layer(name):
    """Return the number of the layer that a module is in, and the entry of LAYERS that names it."""
    matches = [
        (len(entry), number, entry)
        for number, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or name.startswith(f"{entry}/")
    ]
    return max(matches)[1:] if matches else None


def within(name, entries):
    return any(name == entry or name.startswith(f"{entry}/") for entry in entries)


def wrong_imports(package):
    """Return a sentence for each import that breaks a rule."""
    collected = []
    known = modules(package)
    for name, file in known.items():
        for imported in imports(file):
            words = imported.split(".")
            is_command = re.match(r"plugins/\w+/command/", name) is not None
            if words[0] in ("hydra", "omegaconf") and not (within(name, HYDRA_USERS) or is_command):
                collected.append(f"{name} imports {words[0]}")
            is_slow = words[0] in ("torch", "torchvision", "timm", "pytorch_lightning")
            if is_slow and within(name, NO_TORCH) and not within(name, TORCH_USERS):
                collected.append(f"{name} imports {words[0]}")
            if words[0] == "pathlib" and within(name, PURE):
                collected.append(f"{name} knows of paths")
            if words[0] == "lightning":
                collected.append(f"{name} imports lightning beside pytorch_lightning")
            if words[0] != package.name or name == "__init__":
                continue
            target = next((t for end in (4, 3, 2, 1) if (t := "/".join(words[1 : 1 + end])) in known), "")
            if target and not _is_allowed(name, target):
                collected.append(f"{name} imports {target}, which is not below it")
    return collected


def _is_allowed(name, target):
    mine, theirs = layer(name), layer(target)
    assert mine is not None, f"{name} has no layer in this test: add it to LAYERS"
    assert theirs is not None
    mine_parts, their_parts = name.split("/"), target.split("/")
    if their_parts[0] == "plugins":
        return mine_parts[:2] == their_parts[:2]  # it may be deleted, without a word in the core or in another
    if mine_parts[0] == their_parts[0] == "commands":
        return False  # a command calls no other command
    if mine_parts[:2] == their_parts[:2] == ["evaluation", "blocks"]:
        return mine_parts[2] == their_parts[2]  # what two blocks share stands beside the blocks
    if mine_parts[0] == "evaluation" and their_parts[:2] == ["evaluation", "blocks"]:
        return False  # blocks are found by name
    return mine[0] < theirs[0] or mine_parts[0] == their_parts[0]


def wrong_names(package):
    """Return a sentence for each name that breaks a rule."""
    known = modules(package)
    collected, places = [], defaultdict(list)
    for name in known:
        folder, _, last = name.rpartition("/")
        if folder not in FOUND_BY_KIND and not re.match(rf"plugins(/\w+/({'|'.join(KINDS)}))?$", folder):
            places[last].append(name)
        if last.startswith("_") and not last.startswith("__"):
            collected.append(f"{name} is named like a private module")
        if last in DRAWERS:
            collected.append(f"{name} is a drawer of odds and ends")
    for last, names in places.items():
        if len(names) > 1 and not _may_repeat(last, names):
            collected.append(f"modules of one name: {', '.join(names)}")
    classes, constants = defaultdict(set), defaultdict(lambda: defaultdict(set))
    for name, file in known.items():
        for node in parse(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].add(name)
            for constant, value in _constants(node):
                constants[constant][ast.dump(value)].add(name)
    collected += [
        f"classes of one name, {name}: {', '.join(sorted(at))}" for name, at in classes.items() if len(at) > 1
    ]
    for name, contents in constants.items():
        if len(contents) > 1 and name not in STATED_BY_EACH:
            at = sorted(module for some in contents.values() for module in some)
            collected.append(f"constants of one name and different contents, {name}: {', '.join(at)}")
    return collected


def _may_repeat(last, names):
    """Return whether a name may repeat.

    It may for figures of a block, metrics of a block, a command and what implements it, and entries of several kinds.
    """
    if last == "figures":
        return all(name.startswith("evaluation/blocks/") for name in names)
    if {name.rpartition("/")[0] for name in names} <= set(KINDS.values()):
        return True  # an entry's name is unique within its kind
    kinds = {name.split("/")[0] for name in names}
    if kinds == {"metrics", "evaluation"}:
        return len(names) == 2 and f"evaluation/blocks/{last}" in names
    return len(names) == 2 and "commands" in kinds


def _constants(node):
    """Yield the name and the value of each public constant that a statement sets."""
    pairs = []
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        pairs = [(node.target, node.value)]
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs += zip(target.elts, node.value.elts, strict=True)
            else:
                pairs.append((target, node.value))
    for target, value in pairs:
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            yield target.id, value


def test_every_module_has_a_layer():
    assert {name for name in modules(PACKAGE) if name != "__init__" and layer(name) is None} == set()


def find_targets(known):
    """Return the modules of the package that each imports, also within functions."""
    return {
        name: {target for imported in imports(file) if (target := _find_module(imported, known))}
        for name, file in known.items()
    }


def circles(package):
    """Return the modules that import one another, also within functions, in groups."""
    known = modules(package)
    reached = find_targets(known)
    for middle in known:  # Warshall's transitive closure
        for targets in reached.values():
            if middle in targets:
                targets |= reached[middle]
    groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in known}
    return sorted(list(group) for group in groups if len(group) > 1)


def _find_module(imported, known):
    """Return the module that an import names, or is inside of; "" for one of another package."""
    package, *words = imported.split(".")
    names = ("/".join(words[:end]) for end in range(len(words), 0, -1)) if package == PACKAGE.name else ()
    return next((name for name in names if name in known), "")


def test_no_modules_import_one_another(copy):
    assert circles(PACKAGE) == []
    file = modules(copy)["data/splits"]
    file.write_text(f"{file.read_text(encoding='utf-8')}\nfrom avatar_bench.data import selection\n", encoding="utf-8")
    assert ["data/selection", "data/splits"] in circles(copy)


def lonely(package):
    """Return the modules under 60 lines that one other alone imports, entries aside: they belong into it."""
    known = modules(package)
    importers = Counter(target for name, targets in find_targets(known).items() for target in targets - {name})
    entry = re.compile(rf"(plugins/\w+/)?({'|'.join([*KINDS, *KINDS.values()])})(/.*)?")
    sizes = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in known.items()}
    return [
        name
        for name, file in known.items()
        if sizes[name] < 60 and importers[name] < 2 and file.name != "__init__.py" and name != "__main__"
        if not entry.fullmatch(name)
    ]


def test_no_small_module_has_one_importer(copy):
    assert lonely(PACKAGE) == []
    (copy / "data" / "odds.py").write_text('"""Draw odds."""\n', encoding="utf-8")
    assert lonely(copy) == ["data/odds"]


@pytest.mark.parametrize("packages", BUDGETS, ids="+".join)
def test_packages_stay_within_their_budgets(packages):
    files = [file for package in packages for file in (PACKAGE / package).rglob("*.py")]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    statements = sum(isinstance(node, ast.stmt) for file in files for node in ast.walk(parse(file)))
    assert lines <= BUDGETS[packages][0]
    assert statements <= BUDGETS[packages][1]


def test_there_are_no_more_modules_than_planned():
    packages = [name.split("/")[0] for name in modules(PACKAGE)]
    assert len(packages) - packages.count("plugins") <= MOST_MODULES
    budgeted = {package for some in BUDGETS for package in some}
    assert set(packages) - budgeted == {"__init__", "__main__", "errors", "user_entries"}


def test_tests_mirror_the_package():
    root = PACKAGE.parent
    folders = {file.parent.relative_to(root / "tests") for file in (root / "tests").rglob("test_*.py")}
    places = {folder: root if folder.parts[:1] == ("studies",) else PACKAGE for folder in folders}
    assert {folder for folder, root_of_package in places.items() if not (root_of_package / folder).is_dir()} == set()


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")))


WRONG_IMPORTS = {  # by module: a line, and what is said of it
    "data/splits": ("from avatar_bench.models.backbones import create_backbone", "imports models"),
    "models/backbones": ("import avatar_bench.data.decoding", "imports data"),
    "data/folds": ("from avatar_bench.runs import run", "imports runs"),
    "runs/run": ("from avatar_bench.evaluation import registry", "imports evaluation"),
    "runs/record": ("from avatar_bench.config.schema import ImagesConfig", "imports config/schema"),
    "metrics/classification": ("from avatar_bench.runs.run import Run", "imports runs"),
    "metrics/stats": ("import torch.nn", "imports torch"),
    "metrics/plots": ("from pathlib import Path", "knows of paths"),
    "models/stages": ("from omegaconf import DictConfig", "imports omegaconf"),
    "evaluation/block": ("from avatar_bench.evaluation.blocks import blind_test", "imports evaluation/blocks"),
    "evaluation/blocks/shots": ("from avatar_bench.evaluation.blocks.clusters import figures", "evaluation/blocks"),
    "commands/predict": ("from avatar_bench.commands.evaluate import evaluate", "imports commands/evaluate"),
    "commands/train": ("from avatar_bench.cli import app", "imports cli"),
    "training/trainer": ("from lightning import Trainer", "beside pytorch_lightning"),
    "commands/list": ("from avatar_bench import plugins", "imports plugins"),
}


def test_imports_go_downward_alone(copy):
    assert wrong_imports(PACKAGE) == []
    known = modules(copy)
    known["data/folds"] = copy / "data" / "folds.py"
    for module, (line, _) in WRONG_IMPORTS.items():
        text = known[module].read_text(encoding="utf-8") if known[module].exists() else ""
        known[module].write_text(f"{text}\n\ndef late():\n    {line}\n", encoding="utf-8")
    sentences = wrong_imports(copy)
    assert {sentence.partition(" ")[0] for sentence in sentences} == set(WRONG_IMPORTS)
    for module, (_, reason) in WRONG_IMPORTS.items():
        assert any(sentence.startswith(f"{module} ") and reason in sentence for sentence in sentences), module
    known["errors"].write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n")
    assert imports(known["errors"]) == ["typing.TYPE_CHECKING"]  # one for types alone is none


def test_names_keep_the_rules(copy):
    assert wrong_names(PACKAGE) == []
    classes_and_constants = "class Run:\n    pass\n\n\nALPHA = 1\nMETRIC = ('left', 'right')\n"
    for name in ("data/_split", "data/utils", "models/splits", "data/figures", "data/folds"):
        (copy / f"{name}.py").write_text(classes_and_constants if name == "data/folds" else "", encoding="utf-8")
    sentences = wrong_names(copy)
    for reason in (
        "data/_split is named like a private module",
        "data/utils is a drawer of odds and ends",
        "modules of one name: data/splits, models/splits",
        "classes of one name, Run",
        "constants of one name and different contents, METRIC",
    ):
        assert any(reason in sentence for sentence in sentences), reason
    assert any(sentence.startswith("modules of one name") and "data/figures" in sentence for sentence in sentences)


def test_every_module_has_a_docstring_that_is_a_sentence():
    docstrings = {name: ast.get_docstring(parse(file)) or "-" for name, file in modules(PACKAGE).items()}
    assert [name for name, text in docstrings.items() if not text.splitlines()[0].endswith((".", "?"))] == []


def test_no_module_draws_or_writes_where_it_should_only_compute():
    for name, file in modules(PACKAGE).items():
        if name.startswith("evaluation/blocks/") or within(name, PURE):
            calls = {node.func for node in ast.walk(parse(file)) if isinstance(node, ast.Call)}
            names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}
            assert names.isdisjoint({"print", "savefig", "open", "write_text"}), name


def names_of_blocks(file, blocks):
    """Return the blocks that a file names: in Python as a text or an import, in yaml as a key or a value."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        words = []
        for node in ast.walk(_parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.append(node.value.partition("/")[0])
            elif isinstance(node, ast.ImportFrom):
                words += [str(node.module).rpartition(".")[2], *(alias.name for alias in node.names)]
        return blocks & set(words)
    scalars = [token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    return blocks & {scalar.partition("/")[0] for scalar in scalars}


def test_no_file_outside_the_blocks_lists_them(tmp_path):
    root = PACKAGE / "evaluation" / "blocks"
    blocks = {file.parent.name for file in root.glob("*/about.yaml")} - {"against"}
    assert len(blocks) > 12
    files = [file for ending in ("py", "yaml") for folder in (PACKAGE, CONF) for file in folder.rglob(f"*.{ending}")]
    catalogue = PACKAGE / "i18n" / "ru.yaml"  # it has words, such as ensemble
    listing = {file: names_of_blocks(file, blocks) for file in files if root not in file.parents and file != catalogue}
    assert {file: names for file, names in listing.items() if len(names) > 2} == {}
    (tmp_path / "a.py").write_text('X = ("shots/accuracy", "ensemble")\nfrom a.blocks import overview\n')
    (tmp_path / "a.yaml").write_text("shots: 1\nother: [ensemble]\noverview/x: 'a sentence on calibration'\n")
    for file in tmp_path.iterdir():
        assert names_of_blocks(file, blocks) == {"shots", "ensemble", "overview"}
