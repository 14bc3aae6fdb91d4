import pytest

from avatar_bench.errors import ConfigError
from avatar_bench.plugins.app.passwords import Passwords, hash_password


@pytest.fixture(scope="module")
def line():
    return hash_password("анна", "correct horse")


def write(folder, text, mode=0o600):
    file = folder / "people"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    return file


def test_a_password_is_verified_by_its_hash(line, tmp_path):
    passwords = Passwords.read(write(tmp_path, f"# people\n\n{line}\n"))
    assert not passwords.is_verified("анна", "correct horse")
    assert passwords.verify("анна", "correct horse")
    assert passwords.is_verified("анна", "correct horse")
    for name, password in (("анна", "wrong"), ("eve", "correct horse"), ("анна", ""), ("", "")):
        assert not passwords.verify(name, password)
        assert not passwords.is_verified(name, password)
    assert hash_password("анна", "correct horse") != line  # another each time
    assert "correct" not in line


@pytest.mark.parametrize("text", ["anna:hunter2", "hunter2", "anna:$2b$12$hunter2"])
def test_a_password_in_clear_is_refused_and_not_repeated(text, line, tmp_path):
    with pytest.raises(ConfigError, match="line 2") as caught:
        Passwords.read(write(tmp_path, f"{line}\n{text}\n"))
    assert "hunter2" not in str(caught.value)


def test_a_file_that_others_can_read_one_without_names_and_a_missing_one_are_refused(line, tmp_path):
    for mode in (0o640, 0o604):
        with pytest.raises(ConfigError, match="other users"):
            Passwords.read(write(tmp_path, line, mode))
    with pytest.raises(ConfigError, match="no names"):
        Passwords.read(write(tmp_path, "# nobody\n"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Passwords.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", "correct horse"), ("", "correct horse"), ("anna", "eleven char")]
)
def test_a_name_that_the_file_cannot_hold_and_a_short_password_are_refused(name, password):
    with pytest.raises(ConfigError):
        hash_password(name, password)
