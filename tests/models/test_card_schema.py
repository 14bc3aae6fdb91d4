"""Cards that no training of avatar_bench writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar_bench.errors import CheckpointError
from avatar_bench.models.classifier import Classifier

PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}


ODD_VALUES: dict[str, list[Any]] = {
    "classes": [["a", "a"], ["a", ""], ["a", "\x1b[2J"], ["a", "b" * 201], [str(number) for number in range(1001)]],
    "backbone": ["hf-hub:x/y", "no_such_net"],
    "preprocessing": [PREPROCESSING | odd for odd in ({"size": 5000}, {"mean": [0, 0, float("nan")]}, {"more": 1})],
    "temperature": [float("nan")],
    "stage": [0],
    "seed": [-1],
    "weights": [None],
    "versions": [{str(number): "1" for number in range(101)}],
    "options": [
        *({"pretrained": True}, {"checkpoint_path": "x.ckpt"}, {"features_only": True}),
        *({"img_size": 10**6}, {"depths": [1] * 17}, {"act_layer": "os.system('x')"}),
    ],
}
ODD_CARDS = [{name: value} for name, values in ODD_VALUES.items() for value in values]


@pytest.mark.parametrize("odd", ODD_CARDS, ids=lambda odd: str(odd)[:60])
def test_an_odd_card_is_refused_before_a_network_is_built(
    small_checkpoint: Callable[..., Path], odd: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    file = small_checkpoint(tmp_path / "x.ckpt", **odd)
    monkeypatch.setattr("timm.create_model", lambda *given, **more: pytest.fail("built"))
    with pytest.raises(CheckpointError) as caught:
        Classifier.load(file)
    assert len(caught.value.lines) <= 3
    assert str(caught.value).replace("\n", "").isprintable()
