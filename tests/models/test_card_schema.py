"""Cards that no training of avatar_bench writes."""

import pytest

from avatar_bench.errors import CheckpointError
from avatar_bench.models.classifier import Classifier

PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}


ODD_CARDS = [
    {"classes": ["a"]},
    {"classes": ["a", "a"]},
    {"classes": ["a", ""]},
    {"classes": ["a", "\x1b[2J"]},
    {"classes": ["a", "b" * 201]},
    {"classes": [str(number) for number in range(1001)]},
    {"backbone": "hf-hub:x/y"},
    {"backbone": 3},
    {"backbone": "no_such_net"},
    {"preprocessing": {**PREPROCESSING, "size": 5000}},
    {"preprocessing": {**PREPROCESSING, "mean": [0, 0]}},
    {"preprocessing": {**PREPROCESSING, "more": 1}},
    {"preprocessing": {**PREPROCESSING, "mask": 0.1}},
    {"preprocessing": {**PREPROCESSING, "mask": {"corners": 0.6, "patches": {}, "table": ""}}},
    {"preprocessing": {**PREPROCESSING, "mask": {"corners": None, "patches": {"m1": {}}, "table": ""}}},
    {"preprocessing": {**PREPROCESSING, "mask": {"corners": 0.1, "patches": {"m1": {"x": [[0] * 4]}}, "table": ""}}},
    {"preprocessing": {**PREPROCESSING, "mask": {"corners": 0.1, "patches": {"m1": {"0" * 64: [[0]]}}, "table": ""}}},
    {"temperature": float("nan")},
    {"stage": 0},
    {"seed": -1},
    {"versions": {"a": 1}},
    {"versions": {str(number): "1" for number in range(101)}},
    {"schema": True},
    {"weights": None},
    {"options": {"pretrained": True}},
    {"options": {"checkpoint_path": "x.ckpt"}},
    {"options": {"pretrained_cfg": {"url": "http://x"}}},
    {"options": {"features_only": True}},
    {"options": {"drop_rate": float("inf")}},
    {"options": {"img_size": 10**6}},
    {"options": {"embed_dim": 10**9}},
    {"options": {"depths": [1] * 17}},
    {"options": {"act_layer": "os.system('x')"}},
]


@pytest.mark.parametrize("odd", ODD_CARDS, ids=lambda odd: str(odd)[:60])
def test_an_odd_card_is_refused_before_a_network_is_built(small_checkpoint, odd, tmp_path, monkeypatch):
    file = small_checkpoint(tmp_path / "x.ckpt", **odd)
    monkeypatch.setattr("timm.create_model", lambda *args, **options: pytest.fail("built"))
    with pytest.raises(CheckpointError) as caught:
        Classifier.load(file)
    assert len(caught.value.lines) <= 3
    assert str(caught.value).replace("\n", "").isprintable()
