"""The folders of yaml: where they lie, which names each group holds, and what each yaml says it is."""

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
# what `list` lists, and the group of yaml that it is
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


WEIGHTS_CHOICES = ("hub", "none", "package")  # of model.weights, beside a path


def find_conf_folder() -> Path:
    """Give the project's own yaml: packaged with the module, or beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def find_user_folders() -> list[Path]:
    """Give the folders that users add: those of AVATAR_BENCH_CONF, then those of installed packages.

    Raise ConfigError where AVATAR_BENCH_CONF names something that is no folder.
    """
    named = [Path(part).expanduser().absolute() for part in os.environ.get(CONF_VARIABLE, "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{CONF_VARIABLE}: there is no folder {folder}")
    return named + _find_installed_folders()


def find_commands() -> dict[str, str]:
    """Give each command with what it does: its yaml's first comment, or its module's first line."""
    found = {}
    for module in sorted((Path(__file__).parents[1] / "commands").glob("[a-z]*.py")):
        recipe = find_conf_folder() / f"{module.stem}.yaml"
        found[module.stem] = read_summary(recipe) if recipe.is_file() else _read_first_line(module)
    return found


def find_groups(extra: Sequence[Path] = ()) -> list[str]:
    """Give the names of the groups, such as model and mode."""
    folders = [find_conf_folder(), *find_user_folders(), *extra]
    return sorted({yaml.parent.name for folder in folders for yaml in folder.glob("*/*.yaml")} - {"hydra"})


def find_choices(group: str, extra: Sequence[Path] = ()) -> dict[str, Path]:
    """Give the yaml of each name in a group; where two folders hold one name the first counts, as in Hydra."""
    found: dict[str, Path] = {}
    for folder in (find_conf_folder(), *find_user_folders(), *extra):
        for yaml in sorted((folder / group).glob("*.yaml")):
            found.setdefault(yaml.stem, yaml)
    return dict(sorted(found.items()))


def read_summary(yaml: Path) -> str:
    """Give what a yaml says it is: its first comment, after a `# @package` line."""
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
        except Exception as error:  # another's broken package may not end our command
            print_line(f"avatar-bench: the yaml of {point.value} is left out: {error}", file=sys.stderr)
            continue
        if spec is not None:
            places = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
            folders += [Path(place) for place in places]
    return folders


def _read_first_line(module: Path) -> str:
    with module.open(encoding="utf-8") as lines:
        return next(lines, "").strip().strip('"').removeprefix(f"{module.stem}: ").rstrip(".")
