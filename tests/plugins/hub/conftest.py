"""Commands in processes of their own, as in the tests of commands."""

from tests.commands.conftest import fork

__all__ = ["fork"]
