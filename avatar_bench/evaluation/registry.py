"""Evaluation blocks by name: their declarations, which need no import, and their code, which is imported when asked."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_bench.config.entries import Entry, find_entry
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.block import Block, CompareBlock, DatasetBlock, RunBlock
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROTOCOLS = {"run": RunBlock, "comparison": CompareBlock, "dataset": DatasetBlock}


def build_block(name: str, options: Mapping[str, Any] | None = None) -> Block:
    """Build the block of this name with these options; raise ConfigError on an unknown name or invalid option."""
    block: Block = find_entry("block", name).build(options)
    kind = declare_block(name).kind
    if not isinstance(block, _PROTOCOLS[kind]):  # type: ignore[misc]
        method = next(word for word in vars(_PROTOCOLS[kind]) if word in ("evaluate", "compare", "audit"))
        raise ConfigError(
            f"block={name}: its about.yaml says kind: {kind}, so its dataclass needs a method {method} and a version."
        )
    return block


def is_user_block(name: str) -> bool:
    """Return whether a block comes from a user's folder."""
    return not find_entry("block", name).is_builtin


def hash_user_code(name: str) -> str | None:
    """Return 16 hex digits that change with any module of a user's block; None for a built-in one."""
    entry = find_entry("block", name)
    files = [] if entry.is_builtin else _list_files(entry)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16] if files else None


def draw_figures(result: Result) -> Mapping[str, Figure]:
    """Draw the figures of a saved Result with arrays in the current language; none if its block draws none."""
    entry = find_entry("block", result.block)
    if not entry.module.with_name("figures.py").is_file() or entry.module.name != "__init__.py":
        return {}
    module = entry.load()
    figures: Mapping[str, Figure] = importlib.import_module(f"{module.__name__}.figures").draw(result)
    return figures


def _list_files(entry: Entry) -> list[Path]:
    is_folder = entry.module.name == "__init__.py"
    return sorted(entry.module.parent.rglob("*.py")) if is_folder else [entry.module]
