"""Tests of folders that commands write to."""

from pathlib import Path

import pytest

from avatar_bench.errors import AvatarBenchError, ConfigError, DataError, OutputError
from avatar_bench.files.output_folder import new_folder, refuse_foreign_folder


def test_a_record_with_all_keys_or_a_marker_makes_a_folder_ours(tmp_path):
    for text in ('{"a": 1}', "[]", "{", ""):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(DataError, match=r"holds other files, such as record\.json"):
            refuse_foreign_folder(tmp_path, "record.json", ("a", "b"))
        (tmp_path / ".marker").touch()
        refuse_foreign_folder(tmp_path, "record.json", ("a", "b"), ".marker")
        (tmp_path / ".marker").unlink()
    (tmp_path / "record.json").write_text('{"a": 1, "b": 2, "c": 3}')
    refuse_foreign_folder(tmp_path, "record.json", ("a", "b"))


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_a_missing_folder_and_one_without_files_of_others_may_be_written(name, tmp_path):
    out = tmp_path / "out"
    refuse_foreign_folder(out)
    out.mkdir()
    refuse_foreign_folder(out)
    (out / name).write_text("")
    refuse_foreign_folder(out)
    with new_folder(out) as part:
        (part / "run.json").write_text("{}")
    assert [file.name for file in out.iterdir()] == ["run.json"]
    (out / name).write_text("")
    with pytest.raises(DataError, match="holds other files, such as run"):
        refuse_foreign_folder(out)


def test_a_new_folder_appears_whole_and_removes_what_a_killed_process_has_left(tmp_path):
    out = tmp_path / "deep" / "out"
    (tmp_path / "deep" / ".out.part" / "half").mkdir(parents=True)
    with new_folder(out) as folder:
        assert not list(folder.iterdir())
        (folder / "a").touch()
        assert not out.exists()
        with pytest.raises(OutputError, match="another process is writing it"), new_folder(out):
            pass
        assert (folder / "a").exists()
    paths = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert paths == ["deep", "deep/out", "deep/out/a"]
    with pytest.raises(DataError, match="holds other files"), new_folder(out):
        pass


def test_after_an_error_nothing_is_left_and_an_empty_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    for error in (DataError("bad image"), OSError(28, "No space left on device"), KeyboardInterrupt()):
        expected = OutputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected), new_folder(tmp_path / "out"):
            raise error
        assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_the_working_folder_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is the working folder"), new_folder(Path(".")):
        pass
    (tmp_path / "a").touch()
    with pytest.raises(AvatarBenchError) as caught, new_folder(Path("."), "to"):
        pass
    assert caught.value.lines[0] == "to=. holds other files, such as a."
