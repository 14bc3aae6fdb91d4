"""Choice of the run that a command works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from avatar_bench.config import entries
from avatar_bench.errors import ConfigError
from avatar_bench.runs.run_choice import is_run_address, locate_run


@pytest.mark.parametrize("place", ["runs/one", "C:/runs/one", "a: b", ":", "s3://bucket/run"])
def test_what_no_entry_opens_is_a_path(place: str) -> None:
    assert not is_run_address(place)
    assert locate_run(place) == Path(place)


def test_an_entry_of_a_user_opens_the_addresses_that_begin_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "run_address").mkdir()
    (tmp_path / "run_address" / "lab.py").write_text(
        "def fetch_run(address, option):\n    return {'ckpt': '/a', 'runs': '/b'}[option] + address[4:]\n"
    )
    with entries.use_folders([tmp_path]):
        assert (locate_run("lab:/x"), locate_run("lab:/x", "runs")) == (Path("/a/x"), Path("/b/x"))
        with pytest.raises(ConfigError, match=r"run_address lab: .*lab.py failed: KeyError: 'to'"):
            locate_run("lab:/x", "to")


def test_an_address_of_a_plugin_that_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "find_plugins", dict)
    assert is_run_address("hf:someone/avatars")
    with pytest.raises(ConfigError, match=r"ckpt=hf:someone/avatars: .* plug-in hub"):
        locate_run("hf:someone/avatars")
