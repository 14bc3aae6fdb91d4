"""Entries of each kind: blocks, commands, corruptions and so on, of the core, of a plug-in or in the folders of users.

An entry is a module with a yaml beside it, NAME.py and NAME.yaml, or a folder NAME with __init__.py and about.yaml; of
the core, also a class. Those of a plug-in are in KIND/ of its folder, which has an about.yaml, in plugins/ or in an
installed package; those of users are in KIND/ of a folder given by -cd, AVATAR_BENCH_CONF or an installed package.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from avatar_bench.config.options import get_nested, name_entry, name_options, refuse_unknown_options
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import AvatarBenchError, ConfigError, suggest_names
from avatar_bench.files.document import read_yaml
from avatar_bench.files.hashes import sha256_of_bytes

ENTRY_POINT_GROUP, PLUGIN_GROUP = "avatar_bench.conf", "avatar_bench.plugins"
FOLDERS_VARIABLE = "AVATAR_BENCH_CONF"
# folder of the core's entries of each kind, in the package, or module with a class for each, such as NoiseCorruption;
# all entries of some kinds are of plug-ins
KINDS = {
    "command": "commands",
    "block": "evaluation/blocks",
    "corruption": "data/corruption_kinds.py",
    "augmentation": "data/augmentation_steps.py",
    "ood_score": "metrics/ood_scores.py",
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
    """Entry of a kind: its module, its yaml where it has one, and the package of its folder, "" for one of a user.

    `member` is the name of its class, if the module has several entries; its package is the module then.
    """

    kind: str
    name: str
    module: Path
    package: str
    member: str = ""

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
        about = _read_about(self.yaml, self.yaml.stat().st_mtime_ns) if self.yaml.is_file() else {}
        return about.get(self.name, {}) if self.member else about

    @property
    def summary(self) -> str:
        """Return the `summary` of its yaml; else the first line of its docstring, without importing the module."""
        stated = self.about.get("summary") or (self.kind == "block" and self.about.get("title"))
        if stated:
            return str(stated)
        try:
            tree = ast.parse(self.module.read_bytes())
            node = next(statement for statement in (tree, *tree.body) if getattr(statement, "name", "") == self.member)
            text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
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

    def load(self) -> Any:
        """Import the module, or the class in it; raise ConfigError, with the reason, if a user's cannot be imported."""
        if self.member:
            return getattr(importlib.import_module(self.package), self.member)
        full = f"{self.package or f'{_USERS}.{self.kind}'}.{self.name}"
        if self.is_of_project:
            return importlib.import_module(full)
        if not self.package:
            users = importlib.import_module(_USERS)
            users.__path__[:] = [str(folder) for folder in find_user_folders()]
            known = sys.modules.get(full)
            if known is not None and (known.__file__, vars(known).get("_digest")) != (str(self.module), self.digest):
                for name in [name for name in sys.modules if f"{name}.".startswith(f"{full}.")]:
                    del sys.modules[name]  # of another folder, or changed since
                # Python compares seconds and sizes alone
                Path(importlib.util.cache_from_source(str(self.module))).unlink(missing_ok=True)
            importlib.invalidate_caches()  # the file may be as new as the import system's list of its folder
        try:
            module = importlib.import_module(full)
        except Exception as error:  # a module of somebody else may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{self.kind}={self.name}: {self.module} cannot be imported: {reason}") from error
        vars(module)["_digest"] = self.digest
        return module

    def load_class(self) -> type:
        """Return the dataclass of the module; raise ConfigError unless it defines exactly one public one.

        Those that another one holds as the options of a field are parts of it.
        """
        module = self.load()
        if self.member:
            return module  # type: ignore[no-any-return]
        public = [owner for name, owner in inspect.getmembers(module, inspect.isclass) if not name.startswith("_")]
        stated = [owner for owner in public if is_dataclass(owner) and owner.__module__ == module.__name__]
        parts = [get_nested(member) for owner in stated for member in fields(owner)]
        owners = [owner for owner in stated if owner not in parts]
        if len(owners) != 1:
            raise ConfigError(f"{self.module} must define one public dataclass, not {len(owners)}.")
        return owners[0]

    def build(self, options: Mapping[str, Any] | None = None) -> Any:
        """Build the dataclass of the module with its options; raise ConfigError for an unknown or invalid one."""
        owner = self.load_class()
        if not isinstance(options, Mapping | None):
            what = f"{name_options(owner)}={options}: expected its options, such as {{}} or {{name: value}}."
            raise ConfigError(what)
        values = dict(options or {})
        known = [member.name for member in fields(owner)]
        refuse_unknown_options(name_options(owner), values, known, f"{self.kind} {self.name}")
        for member in fields(owner):
            default, value = member.default, values.get(member.name)
            if isinstance(default, int | float) and not isinstance(value, int | float | None):
                raise ConfigError(f"{name_options(owner)}.{member.name}={value}: expected a value such as {default}.")
        try:
            return owner(**values)
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
    folders = [file.parent for file in (_PACKAGE / "plugins").glob("*/about.yaml")]
    plugins = [Plugin(folder.name, folder, f"avatar_bench.plugins.{folder.name}") for folder in folders]
    plugins += [Plugin(*point[1:]) for point in _find_installed(tuple(sys.path)) if point[0] == PLUGIN_GROUP]
    return {plugin.name: plugin for plugin in sorted(plugins, key=lambda plugin: plugin.name)}


def explain_missing(kind: str, name: str) -> str | None:
    """Return what to say of an entry, or of kind "option", that a plug-in that is not there, or a study, provides.

    None for a name that none of them provides.
    """
    file = _PACKAGE / "plugins" / "index.yaml"
    provided = _read_about(file, file.stat().st_mtime_ns) if file.is_file() else {}
    plugin = next((plugin for plugin in provided.keys() - find_plugins() if name in provided[plugin].get(kind, ())), "")
    if "/" in plugin:
        return f"this is of {plugin} of the repository: add -cd {plugin}"
    return f"this is of the plug-in {plugin}, which is not part of this installation." if plugin else None


def find_entries(kind: str) -> dict[str, Entry]:
    """Return the entries of a kind by name, sorted, without importing any.

    Raise ConfigError if one of a plug-in or of a user has the name of another one. Of two users' folders, the first
    wins.
    """
    users = (entry for folder in reversed(find_user_folders()) for entry in _list_entries(kind, folder / kind, ""))
    return _combine_entries(_find_built_in_entries(kind, tuple(sys.path)).values(), users)


def find_renamed(kind: str) -> dict[str, str]:
    """Return the names that entries had in the version before, `former_names` in their yaml, each with that of now."""
    entries = find_entries(kind)
    stated = {former: name for name, entry in entries.items() for former in entry.about.get("former_names", ())}
    return {former: name for former, name in stated.items() if former not in entries}


def find_entry(kind: str, name: str, shown: str = "") -> Entry:
    """Return an entry by name, or by a former name; raise ConfigError, with the folders searched, if there is none.

    `shown` is the option that named it, KIND=NAME by default.
    """
    entries = find_entries(kind)
    name = name if name in entries else find_renamed(kind).get(name, name)
    if name not in entries:
        shown = shown or f"{kind}={name}"
        if missing := explain_missing(kind, name):
            raise ConfigError(f"{shown}: {missing}")
        raise ConfigError(
            f"{shown}: there is no {kind} named {name!r}{suggest_names(name, entries)}",
            f"There are: {', '.join(entries) or 'none'}.",
            describe_folders(kind),
        )
    return entries[name]


def is_of_user(module: str) -> bool:
    """Return whether a module, by its full name, belongs to an entry of a user, or is in the folder of one."""
    top = module.partition(".")[0]
    file = Path(getattr(sys.modules.get(top), "__file__", None) or "")  # TOP.py, or TOP/__init__.py
    in_folder = top != "avatar_bench" and not set(file.parents[:2]).isdisjoint(find_user_folders())
    return in_folder or module.startswith(f"{_USERS}.")


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
    installed = _find_installed(tuple(sys.path))
    return named + [folder for group, _, folder, _ in installed if group == ENTRY_POINT_GROUP]


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


def _combine_entries(project: Iterable[Entry], users: Iterable[Entry]) -> dict[str, Entry]:
    """Return entries by name, sorted; raise ConfigError if one of the others has the name of one of the project."""
    known = {entry.name: entry for entry in project}
    for entry in users:
        if entry.name in known and known[entry.name].is_builtin:
            reason = f"{entry.module}: avatar_bench already has a {entry.kind} {entry.name}."
            raise ConfigError(reason, f"Rename your {entry.kind}.")
        known[entry.name] = entry
    return dict(sorted(known.items()))


@cache
def _find_built_in_entries(kind: str, path: tuple[str, ...]) -> dict[str, Entry]:
    core_place, plugins = KINDS[kind].removesuffix(".py"), find_plugins().values()
    core = _list_entries(kind, _PACKAGE / KINDS[kind], f"avatar_bench.{core_place.replace('/', '.')}")
    others = (_list_entries(kind, plugin.folder / kind, f"{plugin.package}.{kind}") for plugin in plugins)
    return _combine_entries(core, chain.from_iterable(others))


def _list_entries(kind: str, path: Path, package: str) -> Iterator[Entry]:
    """Yield the entries in a folder, or the classes of a module that end in their kind, but for their base."""
    if path.suffix:
        classes = (node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef))
        yield from (
            Entry(kind, name, path, package, member) for member in classes if (name := name_entry(member, kind))
        )
    for file in sorted([*path.glob("[a-zA-Z]*.py"), *path.glob("[a-zA-Z]*/__init__.py")]):
        name = file.parent.name if file.name == "__init__.py" else file.stem
        if name.isidentifier():
            yield Entry(kind, name, file, package)


@cache
def _read_about(file: Path, changed: int) -> Mapping[str, Any]:
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping, such as title: TEXT.")
    return values


@cache
def _find_installed(path: tuple[str, ...]) -> list[tuple[str, str, Path, str]]:
    """Return our entry points of the packages on Python's path: group, name, folder and package of each."""
    files = (file for folder in path for file in Path(folder).glob("*-info/entry_points.txt"))
    if not any("[avatar_bench." in file.read_text(encoding="utf-8", errors="replace") for file in files):
        return []
    from importlib.metadata import entry_points  # its import takes a tenth of `--help`
    from importlib.util import find_spec

    points = []
    for point in (*entry_points(group=ENTRY_POINT_GROUP), *entry_points(group=PLUGIN_GROUP)):
        try:
            spec = find_spec(point.module)
        except Exception as error:  # a broken third-party package must not stop the command
            print_note(f"avatar-bench: the folder of {point.value} is skipped: {error}")
            continue
        if spec is not None:
            places = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
            points += [(point.group, point.name, Path(folder), point.module) for folder in places]
    return points
