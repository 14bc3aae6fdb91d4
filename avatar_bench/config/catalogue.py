"""Catalogue of the yaml folders: the groups, their choices and a one-line summary of each."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from avatar_bench.config.entries import Entry, find_user_folders

# kinds that `list` accepts, and the yaml group of each
LISTED_GROUPS = {
    "models": "model",
    "backbones": "backbone",
    "modes": "mode",
    "blocks": "block",
    "experiments": "experiment",
    "sweeps": "sweep",
    "sources": "source",
    "datasets": "data",
    "optimizers": "optimizer",
    "trainers": "trainer",
    "callbacks": "callbacks",
    "loggers": "logger",
}


WEIGHTS_CHOICES = ("hub", "none", "package")  # values of model.weights besides a path


def find_conf_folder() -> Path:
    """Return the project's own yaml folder: inside the package, or beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def find_commands() -> dict[str, str]:
    """Return the commands with their summaries: the first comment of the yaml, or the first line of the module."""
    found = {}
    for module in sorted((Path(__file__).parents[1] / "commands").glob("[a-z]*.py")):
        recipe = find_conf_folder() / f"{module.stem}.yaml"
        found[module.stem] = read_summary(recipe) if recipe.is_file() else _read_first_line(module)
    return found


def find_groups() -> list[str]:
    """Return the names of the groups, such as model and mode."""
    folders = [find_conf_folder(), *find_user_folders()]
    return sorted({yaml.parent.name for folder in folders for yaml in folder.glob("*/*.yaml")} - {"hydra"})


def find_choices(group: str) -> dict[str, Path]:
    """Return the yaml file of each choice of a group; the first folder wins, as in Hydra."""
    found: dict[str, Path] = {}
    for folder in (find_conf_folder(), *find_user_folders()):
        for yaml in sorted((folder / group).glob("*.yaml")):
            found.setdefault(yaml.stem, yaml)
    return dict(sorted(found.items()))


def read_summary(yaml: Path) -> str:
    """Return the summary of a yaml file: its first comment other than `# @package`."""
    with yaml.open(encoding="utf-8", errors="replace") as lines:
        for line in islice(iter(lambda: lines.readline(1000), ""), 100):
            if line.startswith("#") and "@package" not in line:
                return line.lstrip("# ").strip().rstrip(".")
            if line.strip() and not line.startswith("#"):
                break
    return ""


def describe_entry(entry: Entry) -> str:
    """Return the title of an entry, or the first line of its module."""
    return str(entry.about.get("title") or _read_first_line(entry.module))


def _read_first_line(module: Path) -> str:
    with module.open(encoding="utf-8") as lines:
        return next(lines, "").strip().strip('"').removeprefix(f"{module.stem}: ").rstrip(".")
