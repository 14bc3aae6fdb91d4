"""Fixture of commands in processes of their own."""

from tests.commands.conftest import fork

__all__ = ["fork"]
