"""Fixtures of the tests of commands: processes of their own, and figures that are saved as empty pages."""

from tests.commands.conftest import blank_figures, fork

__all__ = ["blank_figures", "fork"]
