"""Evaluation blocks by name: their declarations, which need no import, and their code, which is imported when asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.block import Block, CompareBlock, DatasetBlock, RunBlock
from avatar_bench.results.declaration import declare_block

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


def hash_user_code(name: str, block: Block) -> str | None:
    """Return hex digits that change with a user's block, corruption or OOD score; None if it uses none of a user."""
    words = set(re.findall(r"\w+", str(vars(block))))
    others = [*find_entries("corruption").values(), *find_entries("ood_score").values()]
    used = [find_entry("block", name), *(entry for entry in others if entry.name in words)]
    return " ".join(entry.digest for entry in used if not entry.is_builtin) or None
