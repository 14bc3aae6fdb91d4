"""Words that the project does not use, and the verbs that docstrings do not begin with."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".github", "avatar_bench", "conf", "docs", "scripts", "studies", "tests")
FILES = ("README.md", "README.ru.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml", "constraints.txt", ".ci/run")
ENDINGS = {".py", ".md", ".yaml", ".jinja", ".csv", ".toml", ".txt", ".ipynb", ""}
OPENINGS = re.compile(r"(giv|gave|say|said|tell|told|hold|held)", re.IGNORECASE)
FORBIDDEN = re.compile(
    r"(?<![a-z])(pictures?|told[ _]apart|verdicts?|entrants?|misfits?|kin|manners|taught|judge[sd]?|hushed|cook(?:ed)?"
    r"|rightly|errs|distortion|only_a_right|out_of_sight|seen_before|wake)(?![a-z])",
    re.IGNORECASE,
)
VAGUE = {"found", "one", "each", "own", "place", "told", "asked", "given", "then", "around"}
# at most so many variables have a name that does not say what they hold; fields of the package whose name is apt
MOST_VAGUE = {"avatar_bench": 10, "tests": 37}
# names of files that others chose
FOREIGN = {
    "conf/source/langflow.yaml": "profile_pictures/People",
    "conf/source/pixel.yaml": "profile-picture-?.jpg",
    "conf/source/volt.yaml": "profile-picture-?.jpg",
}


def texts() -> list[Path]:
    """Return the files that people read or write, except for this one."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*")) if file.is_file()]
    files += [ROOT / name for name in FILES if (ROOT / name).is_file()]
    kept = [file for file in files if file.suffix in ENDINGS and "__pycache__" not in file.parts]
    return [file for file in kept if file != Path(__file__)]


def forbidden(text: str) -> list[str]:
    """Return the lines of a text that hold a forbidden word; "verdict_rows" and "Verdict" hold one, "kind" does not."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # CamelCase in words
    return [line.strip() for line in spaced.splitlines() if FORBIDDEN.search(line)]


@cache  # two tests read the same files
def read_source(source: str) -> tuple[list[str], list[str]]:
    """Return the docstrings that begin with a form of give, say, tell or hold, and the vague names, once a binding."""
    docstrings, names = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstrings.append(ast.get_docstring(node) or "")
        elif isinstance(node, ast.arg):
            names.append(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return [text for text in docstrings if OPENINGS.match(text)], [name for name in names if name in VAGUE]


@pytest.mark.parametrize("folder", MOST_VAGUE)
def test_variables_are_named_by_what_they_hold(folder: str) -> None:
    count = sum(len(read_source(file.read_text(encoding="utf-8"))[1]) for file in (ROOT / folder).rglob("*.py"))
    assert count <= MOST_VAGUE[folder]


def test_a_vague_name_is_found() -> None:
    source = "def f(one, name):\n    found, names = [each for each in one], name.found"
    assert sorted(read_source(source)[1]) == ["each", "found", "one"]


def test_no_forbidden_word_is_used() -> None:
    collected = {}
    for file in texts():
        name = file.relative_to(ROOT).as_posix()
        text = file.read_text(encoding="utf-8").replace(FOREIGN.get(name, "\0"), "")
        if lines := forbidden(f"{name}\n{text}"):
            collected[name] = lines
    assert collected == {}


def test_no_docstring_begins_with_give_say_tell_or_hold() -> None:
    sources = [file for file in texts() if file.suffix == ".py"]
    collected = {
        file.relative_to(ROOT).as_posix(): read_source(file.read_text(encoding="utf-8"))[0] for file in sources
    }
    assert {name: lines for name, lines in collected.items() if lines} == {}


@pytest.mark.parametrize("text", ["Pictures", "told_apart", "verdict_rows", "class Judge:", "wake()"])
def test_a_forbidden_word_is_found(text: str) -> None:
    assert forbidden(text) == [text]
    assert forbidden("kinds awake told cookie judgement skin mistaught") == []
    assert read_source(f'def function():\n    """Tells {text}."""\n')[0] == [f"Tells {text}."]


def test_the_changelog_alone_keeps_the_old_names() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    known = {file.relative_to(ROOT).as_posix() for file in texts()}
    others = {name for name in tracked.stdout.split() if Path(name).suffix in {".py", ".md", ".yaml", ".jinja"}} - known
    assert others <= {"CHANGELOG.md", "tests/test_language.py", ".pre-commit-config.yaml", ".github/workflows/test.yml"}
