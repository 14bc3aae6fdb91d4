"""Files of a release: they state one version, and the image and the workflows name what exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatar_bench import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_citation_and_changelog_state_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_image_is_built_of_files_that_reach_docker() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_pinned_and_its_user_is_not_root() -> None:
    assert re.search(r"^ARG BASE=\w+:\d+\.\d+", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^ARG UV=\d+\.\d+\.\d+$", DOCKERFILE, re.MULTILINE)
    installs = [line for line in DOCKERFILE.replace("\\\n", " ").split("&&") if "uv pip install" in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert DOCKERFILE.index("\nUSER avatar\n") < DOCKERFILE.index("\nENTRYPOINT ")


@pytest.mark.parametrize("file", WORKFLOWS, ids=[file.stem for file in WORKFLOWS])
def test_a_workflow_asks_for_few_rights_and_names_files_that_exist(file: Path) -> None:
    workflow: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            words = shlex.split(step.get("run", ""))
            named = [word for word in words if re.match(r"(\./)?(tests|scripts)/|constraints\.txt$", word)]
            assert all((ROOT / word).exists() for word in named)
