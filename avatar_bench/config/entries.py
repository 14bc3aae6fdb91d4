"""Entries of each kind: blocks, commands, corruptions and so on, of the core, of a plug-in or in the folders of users.

An entry is a module with a yaml beside it, NAME.py and NAME.yaml, or a folder NAME with __init__.py and about.yaml.
Those of a plug-in are in KIND/ of its folder, which has an about.yaml, in plugins/ or in an installed package; those of
users are in KIND/ of a folder given by -cd, by AVATAR_BENCH_CONF or by an installed package.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from avatar_bench.config.options import get_nested, name_options
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import AvatarBenchError, ConfigError, suggest_names
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.files.yaml_io import read_yaml

ENTRY_POINT_GROUP, PLUGIN_GROUP = "avatar_bench.conf", "avatar_bench.plugins"
FOLDERS_VARIABLE = "AVATAR_BENCH_CONF"
# folder of the core's entries of each kind, in the package; all entries of some kinds are of plug-ins
KINDS = {
    "command": "commands",
    "block": "evaluation/blocks",
    "backbone": "models/backbones",
    "corruption": "data/corruptions",
    "augmentation": "data/augmentations",
    "optimizer": "training/optimizers",
    "schedule": "training/schedules",
    "logger": "training/loggers",
    "callback": "training/callbacks",
    "ood_score": "metrics/ood_scores",
    "runtime": "inference/runtimes",
    "detector": "inference/detectors",
    "source": "sources/readers",
    "engine": "runs/engines",
    "prediction_column": "inference/prediction_columns",
    "prediction_output": "reporting/prediction_outputs",
    "run_address": "runs/run_addresses",
    "export_format": "inference/export_formats",
}
_PACKAGE = Path(__file__).parents[1]
_USERS = "avatar_bench.user_entries"


@dataclass(frozen=True)
class Plugin:
    """Product beside the core: a folder with entries, yaml and modules of its own, and the name of its package."""

    name: str
    folder: Path
    package: str

    @property
    def about(self) -> Mapping[str, Any]:
        """Return what its about.yaml says: `summary`, and the `extra` of pyproject.toml that it needs, if any."""
        file = self.folder / "about.yaml"
        if not file.is_file():
            raise ConfigError(
                f"The package {self.package} is no plug-in: {file} is missing.", "Add it, or uninstall it."
            )
        return _read_about(file, file.stat().st_mtime_ns)


@dataclass(frozen=True)
class Entry:
    """Entry of a kind: its module, its yaml where it has one, and the package of its folder, "" for one of a user."""

    kind: str
    name: str
    module: Path
    package: str

    @property
    def is_builtin(self) -> bool:
        """Return whether the entry is of the core or of a plug-in, not of a user."""
        return bool(self.package)

    @property
    def is_of_project(self) -> bool:
        """Return whether the entry is of this project: an error of its code is a bug of ours."""
        return self.package.startswith("avatar_bench.")

    @property
    def is_folder(self) -> bool:
        """Return whether the entry is a folder, with __init__.py and about.yaml, not a single module."""
        return self.module.name == "__init__.py"

    @property
    def yaml(self) -> Path:
        """Return the file that describes the entry, whether or not it exists."""
        return self.module.with_name("about.yaml") if self.is_folder else self.module.with_suffix(".yaml")

    @property
    def about(self) -> Mapping[str, Any]:
        """Return what its yaml says, without importing the module; raise ConfigError if the yaml is invalid."""
        return _read_about(self.yaml, self.yaml.stat().st_mtime_ns) if self.yaml.is_file() else {}

    @property
    def summary(self) -> str:
        """Return the `summary` of its yaml; else the first line of the module's docstring, without importing it."""
        stated = self.about.get("summary") or (self.kind == "block" and self.about.get("title"))
        if stated:
            return str(stated)
        try:
            text = ast.get_docstring(ast.parse(self.module.read_bytes())) or ""
        except (SyntaxError, ValueError) as error:  # told by name when the entry is used
            return f"cannot be imported: {type(error).__name__}, line {getattr(error, 'lineno', None) or 1}"
        return text.partition("\n")[0].rstrip(".")

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the code of the entry: of its module, or of all modules of its folder."""
        files = sorted(self.module.parent.rglob("*.py")) if self.is_folder else [self.module]
        return sha256_of_bytes(b"".join(file.read_bytes() for file in files))

    @property
    def digest(self) -> str:
        """Return 12 hex digits that change with the code of the entry."""
        return self.sha256[:12]

    def load(self) -> ModuleType:
        """Import the module; raise ConfigError, with the reason, if a user's module cannot be imported."""
        if self.package:
            full = f"{self.package}.{self.name}"
            return importlib.import_module(full) if self.is_of_project else self._import(full)
        users = importlib.import_module(_USERS)
        users.__path__[:] = [str(folder) for folder in find_user_folders()]
        full = f"{_USERS}.{self.kind}.{self.name}"
        known = sys.modules.get(full)
        if known is not None and (known.__file__, vars(known).get("_digest")) != (str(self.module), self.digest):
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{full}.")]:
                del sys.modules[name]  # of another folder, or changed since
        importlib.invalidate_caches()  # the file may be as new as the import system's list of its folder
        module = self._import(full)
        vars(module)["_digest"] = self.digest
        return module

    def _import(self, full: str) -> ModuleType:
        try:
            return importlib.import_module(full)
        except Exception as error:  # a module of somebody else may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.kind}={self.name}: {self.module} cannot be imported: {reason}") from error

    def load_class(self) -> type:
        """Return the dataclass of the module; raise ConfigError unless it defines exactly one public one.

        Those that another one holds as the options of a field are parts of it.
        """
        module = self.load()
        found = [
            member
            for name, member in inspect.getmembers(module, inspect.isclass)
            if is_dataclass(member) and member.__module__ == module.__name__ and not name.startswith("_")
        ]
        parts = [get_nested(each) for owner in found for each in fields(owner)]
        found = [owner for owner in found if owner not in parts]
        if len(found) != 1:
            raise ConfigError(f"{self.module} must define one public dataclass, not {len(found)}.")
        return found[0]

    def build(self, options: Mapping[str, Any] | None = None) -> Any:
        """Build the dataclass of the module with its options; raise ConfigError for an unknown or invalid one."""
        owner = self.load_class()
        if not isinstance(options, Mapping | None):
            raise ConfigError(
                f"{name_options(owner)}={options}: expected its options, such as {{}} or {{name: value}}."
            )
        given = dict(options or {})
        known = [each.name for each in fields(owner)]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"{name_options(owner)}.{name}: there is no such option{suggest_names(name, known)}",
                    f"Options of {self.kind} {self.name}: {', '.join(known) or 'none'}.",
                )
        for each in fields(owner):
            default, value = each.default, given.get(each.name)
            if isinstance(default, int | float) and not isinstance(value, int | float | None):
                raise ConfigError(f"{name_options(owner)}.{each.name}={value}: expected a value such as {default}.")
        try:
            return owner(**given)
        except TypeError as error:  # a value of another type, or a missing one
            raise ConfigError(f"{name_options(owner)}: {error}.") from error

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """Raise ConfigError that names the module of a user for any error of its code inside the `with`."""
        try:
            yield
        except AvatarBenchError:
            raise
        except Exception as error:  # a user's module may raise anything
            if self.is_of_project:
                raise
            reason = f"{self.kind} {self.name}: {self.module} failed: {type(error).__name__}: {error}"
            raise ConfigError(reason, "AVATAR_BENCH_DEBUG=1 shows the traceback.") from error


def find_plugins() -> dict[str, Plugin]:
    """Return the plug-ins by name, sorted, those of installed packages among them, without importing any."""
    own = [file.parent for file in _list_abouts()]
    found = [Plugin(folder.name, folder, f"avatar_bench.plugins.{folder.name}") for folder in own]
    found += [Plugin(*each) for each in _find_installed(PLUGIN_GROUP, tuple(sys.path))]
    return {plugin.name: plugin for plugin in sorted(found, key=lambda plugin: plugin.name)}


def find_provider(kind: str, name: str) -> str | None:
    """Return the plug-in or study of this project that provides an entry, there or not; None for no such entry."""
    index = read_yaml(_PACKAGE / "plugins" / "index.yaml")
    return next((plugin for plugin, provided in index.items() if name in provided.get(kind, ())), None)


def find_entries(kind: str) -> dict[str, Entry]:
    """Return the entries of a kind by name, sorted, without importing any.

    Raise ConfigError if one of a plug-in or of a user has the name of another one. Of two users' folders, the first
    wins.
    """
    package = f"avatar_bench.{KINDS[kind].replace('/', '.')}"
    found = {entry.name: entry for entry in _list_entries(kind, _PACKAGE / KINDS[kind], package)}
    others = [(plugin.folder, f"{plugin.package}.{kind}") for plugin in find_plugins().values()]
    others += [(folder, "") for folder in reversed(find_user_folders())]
    for folder, package in others:
        for entry in _list_entries(kind, folder / kind, package):
            if entry.name in found and found[entry.name].is_builtin:
                raise ConfigError(
                    f"{entry.module}: avatar_bench already has a {kind} {entry.name}.", f"Rename your {kind}."
                )
            found[entry.name] = entry
    return dict(sorted(found.items()))


def find_entry(kind: str, name: str, asked: str = "") -> Entry:
    """Return an entry by name; raise ConfigError, with the folders searched, if there is none.

    `asked` is the option that named it, KIND=NAME by default.
    """
    found = find_entries(kind)
    if name not in found:
        asked = asked or f"{kind}={name}"
        if (plugin := find_provider(kind, name)) is not None:
            raise ConfigError(f"{asked}: {describe_missing(plugin)}")
        raise ConfigError(
            f"{asked}: there is no {kind} named {name!r}{suggest_names(name, found)}",
            f"There are: {', '.join(found) or 'none'}.",
            describe_folders(kind),
        )
    return found[name]


def describe_missing(plugin: str) -> str:
    """Return what to say of something that a plug-in provides which is not there, or a folder of studies/."""
    if "/" in plugin:
        return f"this is of {plugin} of the repository: add -cd {plugin}"
    return f"this is of the plug-in {plugin}, which is not part of this installation."


def is_of_user(module: str) -> bool:
    """Return whether a module, by its full name, belongs to an entry of a user."""
    return module.startswith(f"{_USERS}.")


def describe_folders(kind: str) -> str:
    """Return a sentence on the folders searched for the entries of users, and on how to add one."""
    places = ", ".join(str(folder / kind) for folder in find_user_folders())
    return (f"Searched {places}. " if places else "") + f"Add the folder that contains your {kind}/: -cd DIR"


def find_user_folders() -> list[Path]:
    """Return the yaml folders added by users: those of AVATAR_BENCH_CONF, then those of installed packages.

    Raise ConfigError if AVATAR_BENCH_CONF names a path that is not a folder.
    """
    named = [Path(part).expanduser().absolute() for part in _split_variable()]
    for folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{FOLDERS_VARIABLE}: no such folder: {folder}")
    return named + [folder for _, folder, _ in _find_installed(ENTRY_POINT_GROUP, tuple(sys.path))]


@contextmanager
def use_folders(folders: Sequence[str | Path]) -> Iterator[None]:
    """Add folders of -cd to those of users inside the `with`, in this process and in those that it starts."""
    before = os.environ.get(FOLDERS_VARIABLE)
    real = [str(Path(folder).expanduser().absolute()) for folder in folders]
    os.environ[FOLDERS_VARIABLE] = os.pathsep.join(dict.fromkeys([*filter(os.path.isdir, real), *_split_variable()]))
    try:
        yield
    finally:
        os.environ.pop(FOLDERS_VARIABLE) if before is None else os.environ.update({FOLDERS_VARIABLE: before})


def _split_variable() -> list[str]:
    return [part for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]


def _list_entries(kind: str, folder: Path, package: str) -> Iterator[Entry]:
    for file in sorted([*folder.glob("[a-zA-Z]*.py"), *folder.glob("[a-zA-Z]*/__init__.py")]):
        name = file.parent.name if file.name == "__init__.py" else file.stem
        if name.isidentifier():
            yield Entry(kind, name, file, package)


@cache
def _list_abouts() -> list[Path]:
    return sorted((_PACKAGE / "plugins").glob("*/about.yaml"))


@cache
def _read_about(file: Path, changed: int) -> Mapping[str, Any]:
    found = read_yaml(file)
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected a mapping, such as title: TEXT.")
    return found


@cache
def _find_installed(group: str, path: tuple[str, ...]) -> list[tuple[str, Path, str]]:
    """Return the entry points of a group of the packages on Python's path: name, folder and package of each."""
    from importlib.util import find_spec

    found = []
    for point in _read_entry_points(path).select(group=group):
        try:
            spec = find_spec(point.module)
        except Exception as error:  # a broken third-party package must not stop the command
            print_line(f"avatar-bench: the folder of {point.value} is skipped: {error}", file=sys.stderr)
            continue
        if spec is not None:
            places = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
            found += [(point.name, Path(place), point.module) for place in places]
    return found


@cache
def _read_entry_points(path: tuple[str, ...]) -> Any:
    from importlib.metadata import entry_points

    return entry_points()  # of all groups at once: it reads a file of each package
