"""Tests of the yaml folders of the project and of users."""

import pytest

from avatar_bench.config.catalogue import find_choices, find_commands, find_conf_folder, read_summary
from avatar_bench.config.entries import find_user_folders
from avatar_bench.errors import ConfigError
from tests.builders.run_files import write_file


def test_every_yaml_and_command_says_what_it_is_in_the_line_after_the_package_line(tmp_path):
    silent = [yaml for yaml in find_conf_folder().rglob("*.yaml") if not read_summary(yaml)]
    assert silent == []
    assert find_commands()["list"] == "Print the available choices or runs, one per line"
    assert all(find_commands().values())
    assert read_summary(write_file(tmp_path / "a.yaml", "# @package _global_\n# a net.\nx: 1\n")) == "a net"
    assert read_summary(write_file(tmp_path / "b.yaml", "x: 1\n# too late\n")) == ""
    assert read_summary(write_file(tmp_path / "c.yaml", "")) == ""


def test_an_installed_package_and_the_variable_may_add_folders_after_the_projects_own(tmp_path, monkeypatch, capsys):
    write_file(tmp_path / "extra_avatars" / "__init__.py", "")
    yaml = write_file(tmp_path / "extra_avatars" / "model" / "theirs.yaml", "# their net\n")
    points = "[avatar_bench.conf]\ntheirs = extra_avatars\nbroken = no_such_package.conf\n"
    write_file(tmp_path / "extra_avatars-1.dist-info" / "entry_points.txt", points)
    about = "Metadata-Version: 2.1\nName: extra-avatars\nVersion: 1\n"
    write_file(tmp_path / "extra_avatars-1.dist-info" / "METADATA", about)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_choices("model")["theirs"] == yaml
    assert "no_such_package" in capsys.readouterr().err
    mine = write_file(tmp_path / "model" / "mine.yaml", "# my net\n")
    write_file(tmp_path / "model" / "resnet18.yaml", "# another\n")
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    assert find_choices("model")["mine"] == mine
    assert find_choices("model")["resnet18"].parents[1] == find_conf_folder()
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="AVATAR_BENCH_CONF"):
        find_user_folders()
