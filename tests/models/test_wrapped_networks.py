"""Networks of users, plain or with timm's interface, built by name from a folder of theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from avatar_bench.config.entries import FOLDERS_VARIABLE, find_entry
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.models.attribution import SpatialLayer, compute_grad_cam, find_spatial_layer
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.checkpoint import CARD_KEY, write_checkpoint
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.inspection import inspect_network
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import read_weights
from avatar_bench.models.stages import freeze, list_layer_groups
from avatar_bench.models.wrapped_networks import PlainNetwork
from tests.models.small import CARD, PREPROCESSING, images

PLAIN = """
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar
from torch import nn

@dataclass
class Plain:
    width: int = 4
    feature_layer: ClassVar[str] = "layers.body"
    classifier: ClassVar[str] = "layers.out"

    def build(self, classes):
        body = nn.Sequential(nn.Conv2d(3, 2, 3, 4), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, self.width, 1))
        ends = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "out": nn.Linear(self.width, classes)}
        return nn.Sequential(OrderedDict(layers=nn.Sequential(OrderedDict(body=body, **ends))))
"""
TOKENS = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, side):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, (side // 8) ** 2 + 1, 8))
        rates = [rate.item() for rate in torch.linspace(0, 0.1, 2)]
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 16, rate, batch_first=True) for rate in rates])
        self.out = nn.Linear(8, classes)

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.out(self.blocks(x).mean(1))

@dataclass
class Tokens:
    img_size: int = 224
    feature_layer: ClassVar[str] = "blocks"
    classifier: ClassVar[str] = "out"

    def build(self, classes):
        return Net(classes, self.img_size)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that writes a module into the backbone/ of a user's folder."""
    folder = tmp_path / "my" / "backbone"
    folder.mkdir(parents=True)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(folder.parent))

    def add(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text, encoding="utf-8")

    add("plain", PLAIN)
    add("tokens", TOKENS)
    return add


def classifier_of(name: str) -> Classifier:
    options = resolve_options(name, {}, 32)
    torch.manual_seed(0)
    card = Card(("a", "b", "c"), name, PREPROCESSING, options)
    return Classifier(card, create_backbone(name, 3, options=options)).eval()


@pytest.mark.usefixtures("write")
def test_a_plain_network_computes_what_its_module_does() -> None:
    module, batch = find_entry("backbone", "plain").build({"width": 6}).build(3).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, pooled = module(batch), module.layers[:3](batch)
        net = PlainNetwork(module, "layers.out", "layers.body").eval()
        torch.testing.assert_close(net(batch), logits)
        features = net.forward_features(batch)
        torch.testing.assert_close(net.forward_head(features, pre_logits=True), pooled)
        torch.testing.assert_close(net.forward_head(features), logits)
        torch.testing.assert_close(net.get_classifier()(pooled), logits)


@pytest.mark.usefixtures("write")
def test_the_layer_groups_of_a_plain_network_are_its_layers() -> None:
    net = create_backbone("plain", 3)
    last, body = ["head.weight", "head.bias"], "body.layers.body"
    assert list_layer_groups(net) == [[f"{body}.{n}.weight", f"{body}.{n}.bias"] for n in (0, 2, 3)] + [last]
    assert freeze(net, "classifier") == freeze(net, 1) == last
    assert freeze(net, 2) == [f"{body}.3.weight", f"{body}.3.bias", *last]
    assert len(freeze(net, "all")) == 8


@pytest.mark.usefixtures("write")
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("plain", SpatialLayer("body.layers.body", "NCHW", (8, 8))),
        ("tokens", SpatialLayer("body.blocks", "tokens", (4, 4), prefix=1)),
    ],
)
def test_the_feature_layer_is_the_one_of_grad_cam_and_a_stage(name: str, layer: SpatialLayer) -> None:
    classifier = classifier_of(name)
    assert find_spatial_layer(classifier, images()) == layer
    stages = inspect_network(classifier.net, 32).stages
    assert layer.name in " ".join(stages["module"])
    assert stages["params"].sum() == sum(each.numel() for each in classifier.net.parameters())


@pytest.mark.usefixtures("write")
@pytest.mark.parametrize("prefix", ["", "body."])
def test_weights_of_the_module_and_of_a_pretraining_are_read(prefix: str, tmp_path: Path) -> None:
    def read(module: nn.Module) -> dict[str, Tensor]:
        return {f"{prefix}{key}": each for key, each in module.state_dict().items() if "out" not in key}

    other = find_entry("backbone", "plain").build().build(7)
    save_file(read(other), tmp_path / "weights.safetensors")
    net = create_backbone("plain", 3, read_weights(tmp_path / "weights.safetensors"))
    assert all(
        torch.equal(net.state_dict()[f"body.{key.removeprefix(prefix)}"], each) for key, each in read(other).items()
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("from torch import nn", "import no_such_module", "cannot be imported.*no_such_module"),
        ("nn.Linear(self.width, classes)", "nn.Linear(self.width, 7)", r"returns \(2, 7\)"),
        ("self.width, classes)}", "self.width, classes), 'more': nn.Softmax(1)}", "must be its last layer"),
        ('"layers.out"', '"layers.pool"', "AdaptiveAvgPool2d; expected the last nn.Linear"),
        ('"layers.body"', '"layers.missing"', "missing"),
        ("    classifier: ", "    other: ", "lacks timm's forward_features"),
        ("nn.Flatten()", "nn.Identity()", "on images of 32 pixels"),
        ("def build(", "def make(", "no attribute 'build'"),
    ],
)
def test_a_wrong_network_is_refused_with_the_reason(write: Callable[..., None], old: str, new: str, told: str) -> None:
    write("wrong", PLAIN.replace(old, new))
    with pytest.raises(ConfigError, match=told) as caught:
        resolve_options("wrong", {}, 32)
    assert "wrong" in str(caught.value)
    assert len(caught.value.lines) <= 3


def test_a_run_names_the_backbone_that_it_lacks(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, file = classifier_of("plain"), tmp_path / "x.ckpt"
    torch.save(
        {
            "state_dict": {f"net.{k}": v for k, v in classifier.net.state_dict().items()},
            "avatar_bench": classifier.card.plain(),
        },
        file,
    )
    with torch.no_grad():
        torch.testing.assert_close(Classifier.load(file)(images())[0], classifier(images())[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    for folders, told in ("", "-cd DIR"), (str(empty), f"Searched {empty / 'backbone'}.*-cd DIR"):
        monkeypatch.setenv(FOLDERS_VARIABLE, folders)
        with pytest.raises(CheckpointError, match=f"(?s)named 'plain'.*{told}") as caught:
            Classifier.load(file)
        assert len(caught.value.lines) == 3


@pytest.mark.parametrize("name", ["test_resnet"])
def test_a_stage_of_a_convnet_gives_mean_and_deviation_over_positions(name: str) -> None:
    net = create_backbone(name, 3, options={"pooled_layers": [-1, 1, 2]}).eval()
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict(net.body.state_dict())
    listed = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
    listed.load_state_dict(net.body.state_dict(), strict=False)
    batch = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = [stage.flatten(2) for stage in listed(batch)]
        parts = [part for stage in maps for part in (stage.mean(2), (stage.var(2, correction=0) + 1e-6).sqrt())]
        expected = torch.cat([*parts, plain(batch)], dim=1)
        assert torch.allclose(net.forward_features(batch), expected, atol=1e-5)
        assert net(batch).shape == (2, 3)


def test_a_block_of_a_transformer_gives_its_class_token_too() -> None:
    net = create_backbone("test_vit", 3, options={"pooled_layers": [3]}).eval()
    batch, kept = torch.rand(2, 3, 160, 160), []
    net.body.blocks[3].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        given = net.forward_features(batch)
        tokens = net.body.norm(kept[0])
    patches = tokens[:, 1:]
    expected = [patches.mean(1), (patches.var(1, correction=0) + 1e-6).sqrt(), tokens[:, 0]]
    assert torch.allclose(given, torch.cat(expected, dim=1), atol=1e-5)


def test_a_checkpoint_is_loaded_by_its_card_alone_and_explained(tmp_path: Path) -> None:
    options = {"pooled_layers": [2, -1]}
    assert resolve_options("test_resnet", options, 32) == options
    classifier = Classifier(replace(CARD, options=options), create_backbone("test_resnet", 3, options=options)).eval()
    file = tmp_path / "best.ckpt"
    write_checkpoint({"state_dict": classifier.state_dict(), CARD_KEY: classifier.card.plain()}, file)
    loaded, batch = Classifier.load(file), images(size=64)
    with torch.no_grad():
        assert torch.equal(loaded(batch)[0], classifier(batch)[0])
    assert {name.split(".")[1] for name in loaded.state_dict()} == {"body", "head"}
    layer = find_spatial_layer(loaded, batch)
    assert layer.name == "body.layer4"
    assert compute_grad_cam(loaded, layer, batch, torch.zeros(4, dtype=int).numpy(), rectify=False).any()
    assert freeze(loaded.net, "classifier") == freeze(loaded.net, 1) == ["head.weight", "head.bias"]
    assert len(list_layer_groups(loaded.net)) == 6
