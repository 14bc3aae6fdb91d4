"""Evaluation of classifiers that tell whether an avatar is a real photo, a drawing or AI-generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"
__all__ = ["__version__", "load", "predict"]

if TYPE_CHECKING:
    from avatar_bench.runs.ensembles import load, predict


def __getattr__(name: str) -> Any:
    """Import the Python API on first use: it needs torch, which most commands do not."""
    if name in ("load", "predict"):
        from avatar_bench.runs import ensembles

        return getattr(ensembles, name)
    raise AttributeError(f"module 'avatar_bench' has no attribute {name!r}")
