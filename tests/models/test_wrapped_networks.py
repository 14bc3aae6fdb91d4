"""Networks of users, plain or with timm's interface, built by name from a folder of theirs."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.entries import FOLDERS_VARIABLE
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.inference.runtimes.onnx import export_onnx
from avatar_bench.models.attribution import SpatialLayer, compute_grad_cam, find_spatial_layer
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.checkpoint import CARD_KEY, write_checkpoint
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.inspection import inspect_network
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import read_weights
from avatar_bench.models.stages import freeze, list_layer_groups
from avatar_bench.models.wrapped_networks import NetworkNode, PlainNetwork
from tests.models.small import CARD, PREPROCESSING, images

pytestmark = pytest.mark.usefixtures("write")
MODULE = """
from collections import OrderedDict
import timm
import torch
from torch import nn

def build_plain(classes, width=4):
    body = nn.Sequential(nn.Conv2d(3, 2, 3, 4), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, width, 1))
    ends = {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "out": nn.Linear(width, classes)}
    return nn.Sequential(OrderedDict(layers=nn.Sequential(OrderedDict(body=body, **ends))))

class Tokens(nn.Module):
    def __init__(self, classes, img_size):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, (img_size // 8) ** 2 + 1, 8))
        rates = [rate.item() for rate in torch.linspace(0, 0.1, 2)]
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 16, rate, batch_first=True) for rate in rates])
        self.out = nn.Linear(8, classes)

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.out(self.blocks(x).mean(1))
"""
NODES = {
    "plain": {"_target_": "MODULE.build_plain", "classes": "{classes}", "classifier": "layers.out"}
    | {"feature_layer": "layers.body"},
    "tokens": {"_target_": "MODULE.Tokens", "classes": "{classes}", "img_size": 224, "classifier": "out"}
    | {"feature_layer": "blocks"},
    "like_timm": {"_target_": "timm.create_model", "model_name": "test_resnet", "num_classes": "{classes}"},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module and nodes of backbone/ into a user's folder, and the module's name."""
    folder = tmp_path / "my"
    (folder / "backbone").mkdir(parents=True)
    monkeypatch.setenv(FOLDERS_VARIABLE, str(folder))

    def add(text=MODULE, nodes=NODES):
        module = f"networks_{len(list(folder.glob('*.py')))}_{tmp_path.name}"  # one of its own: Python keeps modules
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
        for name, node in nodes.items():
            text = json.dumps(node).replace("MODULE", module)
            (folder / "backbone" / f"{name}.yaml").write_text(f"# a network for tests\n{text}\n", encoding="utf-8")
        return module

    add()
    return add


def classifier_of(name):
    options = resolve_options(name, {}, 32)
    torch.manual_seed(0)
    card = Card(("a", "b", "c"), name, PREPROCESSING, options)
    return Classifier(card, create_backbone(name, 3, options=options)).eval()


def test_a_plain_network_computes_what_its_module_does_and_another_text_is_another_network(write):
    node = NetworkNode.read(find_choices("backbone")["plain"])
    module, batch = node.build(3, {"width": 6}).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, pooled = module(batch), module.layers[:3](batch)
        net = PlainNetwork(module, "layers.out", "layers.body").eval()
        torch.testing.assert_close(net(batch), logits)
        features = net.forward_features(batch)
        torch.testing.assert_close(net.forward_head(features, pre_logits=True), pooled)
        torch.testing.assert_close(net.forward_head(features), logits)
        torch.testing.assert_close(net.get_classifier()(pooled), logits)
    before = node.sha256
    write(MODULE + "# changed", {})
    assert node.sha256 != before


def test_the_layer_groups_of_a_plain_network_are_its_layers_and_loose_parameters_the_stem():
    net = create_backbone("plain", 3)
    last, body = ["head.weight", "head.bias"], "body.layers.body"
    assert list_layer_groups(net) == [[f"{body}.{n}.weight", f"{body}.{n}.bias"] for n in (0, 2, 3)] + [last]
    assert freeze(net, "classifier") == freeze(net, 1) == last
    assert freeze(net, 2) == [f"{body}.3.weight", f"{body}.3.bias", *last]
    assert len(freeze(net, "all")) == 8
    groups = list_layer_groups(create_backbone("tokens", 3))
    assert groups[0] == ["body.token", "body.position"]
    assert [group[0].split(".")[1] for group in groups[1:-1]] == ["cut", "blocks"]


def test_the_feature_layer_is_the_one_of_grad_cam_and_a_stage():
    tokens = {"family": "transformer", "attention": "self-attention", "patch": "8 x 8"}  # by torch's own layers
    for name, layer, traits in (
        ("plain", SpatialLayer("body.layers.body", "NCHW", (8, 8)), {"attention": ""}),
        ("tokens", SpatialLayer("body.blocks", "tokens", (4, 4), prefix=1), tokens),
    ):
        classifier = classifier_of(name)
        assert find_spatial_layer(classifier, images()) == layer
        summary = inspect_network(classifier.net, 32)
        assert layer.name in " ".join(summary.stages["module"])
        assert summary.stages["params"].sum() == sum(parameter.numel() for parameter in classifier.net.parameters())
        assert summary.traits.items() >= traits.items()


def test_a_network_is_built_with_its_options_for_the_images_or_without_classes():
    assert resolve_options("tokens", {}, 32) == {"img_size": 32}
    assert resolve_options("plain", {"width": 5}, 32) == {"width": 5}
    like_timm = create_backbone("like_timm", 3, options={"drop_rate": 0.5})
    assert (type(like_timm).__name__, like_timm.drop_rate) == ("ResNet", 0.5)  # as it is
    assert len(list_layer_groups(like_timm)) > 2
    without = create_backbone("plain", 0)
    assert without(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert not any("head" in name for name in without.state_dict())
    with pytest.raises(ConfigError, match="your own backbone"):
        create_backbone("plain", 3, "hub")
    for options, message in (
        ({"widht": 3}, "did you mean width"),
        ({"width": {"a": 1}}, "expected a word, a list or a number"),
        ({"_target_": "os.system"}, "_target_. is not allowed"),
        ({"_args_": ["true"]}, "_args_. is not allowed"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve_options("plain", options, 32)
        with pytest.raises(ConfigError, match=message):
            create_backbone("plain", 3, options=options)


@pytest.mark.parametrize("prefix", ["", "body."])
def test_weights_of_the_module_and_of_a_pretraining_are_read(prefix, tmp_path):
    donor = NetworkNode.read(find_choices("backbone")["plain"]).build(7, {})
    state = {key: tensor for key, tensor in donor.state_dict().items() if "out" not in key}
    save_file({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "weights.safetensors")
    net = create_backbone("plain", 3, read_weights(tmp_path / "weights.safetensors"))
    assert all(torch.equal(net.state_dict()[f"body.{key}"], tensor) for key, tensor in state.items())


def test_a_wrong_network_is_refused_with_the_reason(write):
    for old, new, key, value, message in (
        ("import timm", "import no_such_module", "", "", "no_such_module"),
        ("nn.Linear(width, classes)", "nn.Linear(width, 7)", "", "", r"returns \(2, 7\)"),
        ("classes)}", "classes), 'more': nn.Softmax(1)}", "", "", "must be its last layer"),
        ("nn.Flatten()", "nn.Identity()", "", "", "on images of 32 pixels"),
        ("", "", "classifier", "layers.pool", "AdaptiveAvgPool2d; expected the last nn.Linear"),
        ("", "", "feature_layer", "layers.missing", "missing"),
        ("", "", "classifier", None, "lacks timm's forward_features"),
        ("", "", "_target_", "MODULE.build_other", "build_other"),
        ("", "", "_target_", None, "expected _target_: CLASS"),
        ("", "", "_target_", "collections.OrderedDict", "OrderedDict"),
        ("", "", "depth", 3, "depth"),
        ("", "", "width", "wide", "TypeError"),
    ):
        write(MODULE.replace(old, new), {"wrong": NODES["plain"] | ({key: value} if key else {})})
        with pytest.raises(ConfigError, match=message) as caught:
            resolve_options("wrong", {}, 32)
        assert "wrong" in str(caught.value)
        assert len(caught.value.lines) <= 3


def test_a_run_names_the_backbone_that_it_lacks(write, tmp_path, monkeypatch):
    classifier, file = classifier_of("plain"), tmp_path / "x.ckpt"
    write_checkpoint({"state_dict": classifier.state_dict(), CARD_KEY: classifier.card.plain()}, file)
    with torch.no_grad():
        torch.testing.assert_close(Classifier.load(file)(images())[0], classifier(images())[0])
    (empty := tmp_path / "empty").mkdir()
    for folders, advice in ("", "-cd DIR"), (str(empty), f"Searched {empty / 'backbone'}.*-cd DIR"):
        monkeypatch.setenv(FOLDERS_VARIABLE, folders)
        with pytest.raises(CheckpointError, match=f"(?s)named 'plain'.*{advice}") as caught:
            Classifier.load(file)
        assert len(caught.value.lines) == 3


@pytest.mark.slow
def test_a_network_for_one_number_of_images_cannot_be_exported(write):
    pytest.importorskip("onnxscript")
    write(MODULE.replace("x.shape[0]", "len(x)"), {"fixed": NODES["tokens"]})
    with pytest.raises(ConfigError, match="number of images"):
        export_onnx(classifier_of("fixed"), 32)


def test_stages_give_mean_and_deviation_over_positions_and_blocks_of_a_transformer_a_class_token_too():
    for name in ("test_resnet", "test_efficientnet"):
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
    net = create_backbone("test_vit", 3, options={"pooled_layers": [3]}).eval()
    outputs = []
    net.body.blocks[3].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        features = net.forward_features(torch.rand(2, 3, 160, 160))
        tokens = net.body.norm(outputs[0])
    patches = tokens[:, 1:]
    expected = [patches.mean(1), (patches.var(1, correction=0) + 1e-6).sqrt(), tokens[:, 0]]
    assert torch.allclose(features, torch.cat(expected, dim=1), atol=1e-5)


def test_a_checkpoint_is_loaded_by_its_card_alone_and_explained(tmp_path):
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


@pytest.mark.parametrize("layers", [[7], [-2], ["a"], "abc", [1.0]])
def test_layers_that_a_network_lacks_are_refused(layers, tmp_path):
    with pytest.raises(ConfigError, match="5 stages"):
        create_backbone("test_resnet", 3, options={"pooled_layers": layers})
    net, file = create_backbone("test_resnet", 3, options={"pooled_layers": [1]}), tmp_path / "best.ckpt"
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    write_checkpoint({"state_dict": state, CARD_KEY: replace(CARD, options={"pooled_layers": layers}).plain()}, file)
    with pytest.raises(CheckpointError):
        Classifier.load(file)
