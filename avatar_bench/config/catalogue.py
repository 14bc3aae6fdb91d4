"""Catalogue of the yaml folders: the groups, their choices and a one-line summary of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from functools import cache
from pathlib import Path

from avatar_bench.config.entries import KINDS, Entry, find_entries, find_plugins, find_user_folders

_LISTED = (
    *("model", "backbone", "mode", "block", "experiment", "sweep", "source", "data", "view", "optimizer", "schedule"),
    *("trainer", "callbacks", "logger", "corruption", "augmentation", "ood_score", "runtime", "detector", "plugin"),
    *("command", "engine", "prediction_column", "prediction_output", "run_address", "export_format"),
)
# kinds that `list` accepts, and the yaml group of each
_PLURALS = {"data": "datasets", "callbacks": "callbacks", "run_address": "run_addresses"}
LISTED_GROUPS = {_PLURALS.get(group, f"{group}s"): group for group in _LISTED}
PLAIN_COMMANDS = ("list", "completion")  # they read their words themselves, without Hydra, and answer at once
LAST = 1000  # order of a block that declares none
ALL_BLOCKS = "all blocks of one run, then those that compare runs; blocks that cannot run are skipped and listed"
WEIGHTS_CHOICES = ("hub", "none", "package")  # values of model.weights besides a path


def find_conf_folder() -> Path:
    """Return the project's own yaml folder: inside the package, or beside it in a checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def find_yaml_folders() -> list[Path]:
    """Return the folders of yaml in which Hydra looks up: the project's own, those of plug-ins, and those of users."""
    return [find_conf_folder(), *(plugin.folder for plugin in find_plugins().values()), *find_user_folders()]


def find_commands() -> dict[str, str]:
    """Return the commands with their summaries, from the first comment of their yaml or their docstring."""
    summaries = {}
    for name, entry in find_entries("command").items():
        recipe = find_recipe(name)
        summary = read_summary(recipe) if recipe else entry.summary.removeprefix(f"{name}: ")
        summaries[name] = summary[:1].upper() + summary[1:]
    return summaries


def find_recipe(command: str) -> Path | None:
    """Return the yaml of which a command's configuration is composed, None if it has only the options of its class."""
    files = (folder / f"{command}.yaml" for folder in find_yaml_folders())
    return next((file for file in files if file.is_file()), None)


def find_unused_groups(command: str | None) -> Mapping[str, str]:
    """Return the groups that a command has not, although the yaml of a model may choose one, each with the reason."""
    entry = find_entries("command").get(command or "")
    return entry.about.get("unused_groups", {}) if entry else {}


def find_groups() -> list[str]:
    """Return the names of the groups, such as model and block."""
    folders = find_yaml_folders()
    names = {yaml.parent.name for folder in folders for yaml in folder.glob("*/*.yaml")} - {"hydra"} | {"block"}
    return sorted(names - find_kinds_of_entries_alone())


@cache  # Hydra asks for each override and each of its defaults
def find_kinds_of_entries_alone() -> Set[str]:
    """Return the kinds of entries whose folders are no groups of Hydra: their yaml files are no options."""
    return {kind for kind in (*KINDS, "backbone") if kind != "block" and not (find_conf_folder() / kind).is_dir()}


def find_choices(group: str) -> dict[str, Path]:
    """Return the yaml file of each choice of a group; the first folder wins, as in Hydra."""
    if group == "block":
        return {name: entry.yaml for name, entry in find_entries("block").items() if is_choice(entry)}
    files: dict[str, Path] = {}
    for folder in find_yaml_folders():
        for yaml in sorted((folder / group).glob("*.yaml")):
            files.setdefault(yaml.stem, yaml)
    return dict(sorted(files.items()))


def list_blocks(kinds: Collection[str] = ("run", "comparison")) -> list[str]:
    """Return the names of the blocks of these kinds in their order, without importing any; by default those of all."""
    declarations = {name: entry.about for name, entry in find_entries("block").items()}
    chosen = [name for name, about in declarations.items() if about.get("kind", "run") in kinds]
    # an order that is no number is refused where the declaration is read
    orders = {name: declarations[name].get("order") for name in chosen}
    return sorted(chosen, key=lambda name: order if isinstance(order := orders[name], int) else LAST)


def is_choice(entry: Entry) -> bool:
    """Return whether an entry of kind block can be selected: not the one of the differences that against= writes."""
    return entry.about.get("kind") != "change"


def describe_choices(group: str) -> dict[str, str]:
    """Return the choices of a group, and the entries of its kind, each with its summary.

    Those of augmentation are steps, which the choices combine: see `describe_augmentation_steps`; those of source are
    kinds, of which a choice names one.
    """
    kind = group if group in KINDS else group.removesuffix("s")
    if group == "command":
        return find_commands()
    if group == "plugin":
        return {name: str(plugin.about["summary"]) for name, plugin in find_plugins().items()}
    entries = find_entries(kind) if kind in KINDS and kind not in ("augmentation", "source") else {}
    summaries = {name: entry.summary for name, entry in entries.items() if is_choice(entry)}
    if group == "block":
        return {"all": ALL_BLOCKS} | summaries
    stated = {name: read_summary(yaml) or summaries.get(name, "") for name, yaml in find_choices(group).items()}
    return dict(sorted((summaries | stated).items()))


def describe_augmentation_steps() -> dict[str, str]:
    """Return the steps of augmentation, each by the option that turns it on, with its summary."""
    entries = find_entries("augmentation").values()
    return {f"data.augment.{'' if step.is_builtin else 'others.'}{step.name}": step.summary for step in entries}


def read_summary(yaml: Path) -> str:
    """Return the summary of a yaml file: its first comment other than `# @package`."""
    with yaml.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("#") and "@package" not in line:
                return line.lstrip("# ").strip().rstrip(".")
            if line.strip() and not line.startswith("#"):
                break
    return ""
