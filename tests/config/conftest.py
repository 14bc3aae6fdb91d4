"""Figures that are saved as empty pages."""

from tests.commands.conftest import blank_figures

__all__ = ["blank_figures"]
