"""The folder of the study, used by every test as by -cd, and the fixtures of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar_bench.config.entries import use_folders
from tests.evaluation.conftest import dataset_of, draw_saved, fake_run, make_predictions, oracle

__all__ = ["dataset_of", "draw_saved", "fake_run", "make_predictions", "oracle"]


@pytest.fixture
def study() -> Path:
    return Path(__file__).parents[3] / "studies" / "avatar_types"


@pytest.fixture(autouse=True)
def use_study(study: Path) -> Iterator[None]:
    with use_folders([study]):
        yield
