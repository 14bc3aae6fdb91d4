"""Registry of evaluation blocks: packages in evaluation/blocks, and modules in users' folders."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.config.entries import find_entries
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.evaluation import blocks
from avatar_bench.evaluation.block import Block

_USERS = "avatar_bench_user"  # package name under which modules in users' folders are loaded


def list_blocks(folders: Sequence[Path] = ()) -> list[str]:
    """Return the sorted names of all blocks without importing any; users' `folders` are laid out like conf/."""
    return sorted(_list_builtin_blocks() | _find_user_blocks(folders).keys())


def is_user_block(block: Block) -> bool:
    """Return whether a block comes from a user's folder."""
    return type(block).__module__.startswith(f"{_USERS}.")


def find_user_yamls(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the yaml file of each block in users' folders."""
    return {name: file.with_suffix(".yaml") for name, file in sorted(_find_user_blocks(folders).items())}


def build_block(name: str, options: Mapping[str, Any] | None = None, folders: Sequence[Path] = ()) -> Block:
    """Build the block of this name with these options; raise ConfigError on an unknown name, option or type."""
    if name not in list_blocks(folders):
        for folder in folders:
            if (folder / "block" / f"{name}.yaml").is_file():
                raise ConfigError(f"block={name}: {folder / 'block'} contains {name}.yaml but no {name}.py.")
        raise ConfigError(*_explain_unknown("block", name, list_blocks(folders)))
    return _configure(name, _find_block_class(_import_block(name, folders)), dict(options or {}))


def hash_code(block: Block) -> str:
    """Return 16 hex digits that change with any line of this package, or of a user's block, corruption or OOD score."""
    own = Path(inspect.getfile(type(block))).read_bytes()
    entries = [*find_entries("corruption").values(), *find_entries("ood_score").values()]
    users = "".join(entry.digest for entry in entries if not entry.is_builtin)
    return hashlib.sha256(_hash_package() + own + users.encode()).hexdigest()[:16]


@cache
def _hash_package() -> bytes:
    package = Path(__file__).parents[1]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(package.rglob("*.py")))).digest()


def _find_user_blocks(folders: Sequence[Path]) -> dict[str, Path]:
    """Find modules with a yaml beside them in users' folders; raise ConfigError if a built-in block has the name."""
    files = [file for folder in reversed(folders) for file in sorted((folder / "block").glob("*.py"))]
    found = {file.stem: file for file in files if file.with_suffix(".yaml").is_file()}
    for name in sorted(_list_builtin_blocks() & found.keys()):
        raise ConfigError(f"{found[name]}: avatar_bench already has a block {name}.", "Rename your block.")
    return found


def _list_builtin_blocks() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(blocks.__path__)}


def _import_block(name: str, folders: Sequence[Path]) -> ModuleType:
    if importlib.util.find_spec(f"{blocks.__name__}.{name}"):
        return importlib.import_module(f"{blocks.__name__}.{name}")
    file = _find_user_blocks(folders)[name]
    full = f"{_USERS}.{name}"
    spec = importlib.util.spec_from_file_location(full, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[full] = importlib.util.module_from_spec(spec)  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(f"block={name}: {file} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _find_block_class(module: ModuleType) -> type[Block]:
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Block) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise ConfigError(
            f"{module.__file__} must define one dataclass, not {len(own)}, that subclasses "
            "RunBlock, CompareBlock or DatasetBlock"
        )
    return own[0]


def _configure(name: str, block: type[Block], options: dict[str, Any]) -> Block:
    known = [field.name for field in fields(block)]
    for option in options:
        if option not in known:
            raise ConfigError(*_explain_unknown(f"option of block.{name}", option, known))
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(block), options))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"block.{name}.{error.full_key or ''}: {reason}.") from error
    assert isinstance(built, block)
    return built


def _explain_unknown(kind: str, given: str, known: list[str]) -> tuple[str, str]:
    nearest = suggest_names(given, known)
    return f"There is no {kind} named {given!r}" + (
        f"; {nearest}" if nearest else "."
    ), f"There are: {', '.join(known) or 'none'}."
