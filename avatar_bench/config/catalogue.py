"""Catalogue of the yaml folders: the groups, their choices and a one-line summary of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from avatar_bench.console.terminal import print_line
from avatar_bench.errors import ConfigError

ENTRY_POINT_GROUP = "avatar_bench.conf"
CONF_VARIABLE = "AVATAR_BENCH_CONF"
# kinds that `list` accepts, and the yaml group of each
LISTED_GROUPS = {
    "models": "model",
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


def find_user_folders() -> list[Path]:
    """Return the yaml folders added by users: those of AVATAR_BENCH_CONF, then those of installed packages.

    Raise ConfigError if AVATAR_BENCH_CONF names a path that is not a folder.
    """
    named = [Path(part).expanduser().absolute() for part in os.environ.get(CONF_VARIABLE, "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{CONF_VARIABLE}: no such folder: {folder}")
    return named + _find_installed_folders()


def find_commands() -> dict[str, str]:
    """Return the commands with their summaries: the first comment of the yaml, or the first line of the module."""
    found = {}
    for module in sorted((Path(__file__).parents[1] / "commands").glob("[a-z]*.py")):
        recipe = find_conf_folder() / f"{module.stem}.yaml"
        found[module.stem] = read_summary(recipe) if recipe.is_file() else _read_first_line(module)
    return found


def find_groups(extra: Sequence[Path] = ()) -> list[str]:
    """Return the names of the groups, such as model and mode."""
    folders = [find_conf_folder(), *find_user_folders(), *extra]
    return sorted({yaml.parent.name for folder in folders for yaml in folder.glob("*/*.yaml")} - {"hydra"})


def find_choices(group: str, extra: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the yaml file of each choice of a group; the first folder wins, as in Hydra."""
    found: dict[str, Path] = {}
    for folder in (find_conf_folder(), *find_user_folders(), *extra):
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


def _find_installed_folders() -> list[Path]:
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    folders = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = find_spec(point.module)
        except Exception as error:  # a broken third-party package must not stop the command
            print_line(f"avatar-bench: the yaml folder of {point.value} is skipped: {error}", file=sys.stderr)
            continue
        if spec is not None:
            places = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
            folders += [Path(place) for place in places]
    return folders


def _read_first_line(module: Path) -> str:
    with module.open(encoding="utf-8") as lines:
        return next(lines, "").strip().strip('"').removeprefix(f"{module.stem}: ").rstrip(".")
