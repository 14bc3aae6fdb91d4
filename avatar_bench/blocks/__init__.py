"""The registry of blocks: a module of this package is a block, and its name is the block's."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_bench.blocks.base import Block
from avatar_bench.errors import ConfigError

_NOT_BLOCKS = {"base"}


def available() -> list[str]:
    """Give the names of all blocks, sorted, without importing any."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted(name for name in names - _NOT_BLOCKS if not name.startswith("_"))


def build(name: str, options: Mapping[str, Any] | None = None) -> Block:
    """Give the block of this name with these options; raise ConfigError on an unknown name, option or type."""
    if name not in available():
        raise ConfigError(*_unknown("block", name, available()))
    return _configure(name, _block_class(name), dict(options or {}))


def _block_class(name: str) -> type[Block]:
    module = importlib.import_module(f"{__name__}.{name}")
    own = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Block) and member.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TypeError(
            f"{module.__name__} must define one dataclass that subclasses RunBlock or DatasetBlock, not {len(own)}"
        )
    return own[0]


def _configure(name: str, block: type[Block], options: dict[str, Any]) -> Block:
    known = [field.name for field in fields(block)]
    for option in options:
        if option not in known:
            raise ConfigError(*_unknown(f"option of block.{name}", option, known))
    try:
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(block), options))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"block.{name}.{error.full_key or ''}: {reason}.") from error
    assert isinstance(built, block)
    return built


def _unknown(kind: str, given: str, known: list[str]) -> tuple[str, str]:
    close = difflib.get_close_matches(given, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no {kind} named {given!r}.{hint}", f"There are: {', '.join(known) or 'none'}."
