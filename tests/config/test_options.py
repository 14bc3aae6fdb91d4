"""Options stated once: defaults, help, choices, ranges, and the check of their values."""

from dataclasses import dataclass

import pytest

from avatar_bench.config.options import Options, get_default, iterate_options, option
from avatar_bench.errors import ConfigError


@dataclass(kw_only=True)
class Some(Options):
    """Options of every kind."""

    at: str = option("input", help="where", choices=("input", "native"))
    kinds: list[str] = option(["a"], help="which", choices=lambda: ["a", "b"])
    count: int = option(3, help="how many", range=(1, None))
    share: float | None = option(None, help="part", range=(0, 1))
    level: float = option(0.5, help="level", check=lambda value: 0 < value < 1, expected="above 0 and below 1")


def test_options_take_valid_values_refuse_others_and_are_known_from_their_class():
    assert Some(at="native", kinds=["b", "a"], count=1, share=1.0, level=0.9).share == 1.0
    Some().kinds.append("b")
    assert Some().kinds == ["a"]
    for values, message in (
        ({"at": "x"}, r"\.at=x: expected one of input, native\."),
        ({"kinds": ["a", "c"]}, r"expected some of a, b\."),
        ({"count": 0}, r"\.count=0: expected 1 or more\."),
        ({"share": 1.5}, r"expected 0 to 1\."),
        ({"level": 1}, r"expected above 0 and below 1\."),
    ):
        with pytest.raises(ConfigError, match=message):
            Some(**values)
    collected = {member.name: (known.help, get_default(member)) for member, known in iterate_options(Some)}
    assert collected["kinds"] == ("which", ["a"])
    assert list(collected) == ["at", "kinds", "count", "share", "level"]
