"""The runtime of a page: from a folder or from npm, compared with its SHA-512, else one clear error."""

import shutil

import pytest

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.plugins.app.web_runtime import BINARY, PACKAGE, SCRIPT, VERSION, load_web_runtime

MODULE = "/*! ONNX Runtime Web v9.8.7 */\nvar a=1,b=2;export{a as Tensor,b as env,c};\n//# sourceMappingURL=x.map\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with files that are named as those of the runtime."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / SCRIPT).write_text(MODULE, encoding="utf-8")
    (tmp_path / "dist" / BINARY).write_bytes(b"\0asm")
    return tmp_path


@pytest.mark.parametrize("inner", ["", "dist"])
def test_a_folder_or_its_dist_is_read(folder, inner):
    runtime = load_web_runtime(folder / inner)
    assert (runtime.version, runtime.binary) == ("9.8.7", b"\0asm")
    assert "return { Tensor: a, env: b, c: c };" in runtime.expression
    assert not any(word in runtime.expression for word in ("export{", "sourceMappingURL"))


@pytest.mark.parametrize("script", ["var ort = 1;", MODULE.replace("a=1", 'a="</script>"')])
def test_a_folder_without_a_file_or_with_a_script_that_a_page_cannot_contain_is_refused(folder, script):
    (folder / "dist" / SCRIPT).write_text(script, encoding="utf-8")
    with pytest.raises(ConfigError, match="no module that a page can contain"):
        _ = load_web_runtime(folder).expression
    (folder / "dist" / BINARY).unlink()
    with pytest.raises(ConfigError, match=f"does not contain the runtime of a page.\nExpected.*{BINARY}"):
        load_web_runtime(folder)


def test_without_npm_and_cache_the_error_names_the_option(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)npm is not installed.*web_runtime=DIR") as caught:
        load_web_runtime(None)
    assert len(caught.value.lines) <= 3
    assert not list((tmp_path / "cache" / "archives").iterdir())


def test_another_archive_in_the_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    folder = tmp_path / "archives" / f"{PACKAGE}-{VERSION}-npm"
    folder.mkdir(parents=True)
    (folder / "other.tgz").write_bytes(b"other")
    with pytest.raises(DataError, match="not the expected one, by its SHA-512"):
        load_web_runtime(None)


@pytest.mark.slow
def test_npm_gets_the_pinned_version_whose_digest_agrees():
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    try:
        runtime = load_web_runtime(None)
    except DataError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("npm cannot fetch the runtime")
    assert runtime.version == VERSION
    assert runtime.binary.startswith(b"\0asm")
    assert "InferenceSession" in runtime.expression
