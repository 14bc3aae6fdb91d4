"""Errors: their lines survive pickling and loader processes."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from avatar_bench.data.loaders import ImageDataset, build_loader
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import DataError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_told_in_its_own_lines_whoever_reads_it(tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    preprocessing = Preprocessing(8, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    images = ImageDataset([broken], np.zeros(1, dtype=np.int64), preprocessing)
    with pytest.raises(DataError) as caught:
        list(build_loader(images, 1, workers))
    assert caught.value.lines[0].startswith(f"{broken}: ")
    assert len(caught.value.lines) <= 3
    assert "Traceback" not in str(caught.value)


def test_a_name_that_holds_a_newline_stays_on_its_line_also_out_of_another_process() -> None:
    error = DataError("a\nb: broken.", "Mend it.")
    assert error.lines == ("a\\nb: broken.", "Mend it.")
    assert pickle.loads(pickle.dumps(error)).lines == error.lines
