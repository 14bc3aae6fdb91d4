"""Cards that no training of avatar_bench writes."""

import pytest

from avatar_bench.errors import CheckpointError
from avatar_bench.models.classifier import Classifier

PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}

ODD_CLASSES = (
    ["a"],
    ["a", "a"],
    ["a", ""],
    ["a", "\x1b[2J"],
    ["a", "b" * 201],
    [str(number) for number in range(1001)],
)
ODD_MASKS = (
    0.1,
    {"corners": 0.6, "patches": {}, "table": ""},
    {"corners": None, "patches": {"m1": {}}, "table": ""},
    {"corners": 0.1, "patches": {"m1": {"x": [[0] * 4]}}, "table": ""},
    {"corners": 0.1, "patches": {"m1": {"0" * 64: [[0]]}}, "table": ""},
)
ODD_PREPROCESSING = ({"size": 5000}, {"mean": [0, 0]}, {"more": 1}, *({"mask": mask} for mask in ODD_MASKS))
ODD_OPTIONS = (
    *({"pretrained": True}, {"checkpoint_path": "x.ckpt"}, {"pretrained_cfg": {"url": "http://x"}}),
    *({"features_only": True}, {"drop_rate": float("inf")}, {"img_size": 10**6}, {"embed_dim": 10**9}),
    *({"depths": [1] * 17}, {"act_layer": "os.system('x')"}),
)
ODD_CARDS = [
    *({"classes": classes} for classes in ODD_CLASSES),
    *({"backbone": backbone} for backbone in ("hf-hub:x/y", 3, "no_such_net")),
    *({"preprocessing": PREPROCESSING | odd} for odd in ODD_PREPROCESSING),
    *({"temperature": float("nan")}, {"stage": 0}, {"seed": -1}, {"schema": True}, {"weights": None}),
    *({"versions": {"a": 1}}, {"versions": {str(number): "1" for number in range(101)}}),
    *({"options": options} for options in ODD_OPTIONS),
]


@pytest.mark.parametrize("odd", ODD_CARDS, ids=lambda odd: str(odd)[:60])
def test_an_odd_card_is_refused_before_a_network_is_built(small_checkpoint, odd, tmp_path, monkeypatch):
    file = small_checkpoint(tmp_path / "x.ckpt", **odd)
    monkeypatch.setattr("timm.create_model", lambda *args, **options: pytest.fail("built"))
    with pytest.raises(CheckpointError) as caught:
        Classifier.load(file)
    assert len(caught.value.lines) <= 3
    assert str(caught.value).replace("\n", "").isprintable()
