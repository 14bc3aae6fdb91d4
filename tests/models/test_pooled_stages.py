"""Networks that pool the features of several stages, against timm's own features and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.models.attribution import compute_grad_cam, find_spatial_layer
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.checkpoint import CARD_KEY, write_checkpoint
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.stages import freeze, list_layer_groups
from tests.models.small import CARD, images


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
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


@pytest.mark.parametrize("layers", [[7], [-2], ["a"], "abc", [1.0]])
def test_layers_that_a_network_lacks_are_refused(layers: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 stages"):
        create_backbone("test_resnet", 3, options={"pooled_layers": layers})
    net, file = create_backbone("test_resnet", 3, options={"pooled_layers": [1]}), tmp_path / "best.ckpt"
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    write_checkpoint({"state_dict": state, CARD_KEY: replace(CARD, options={"pooled_layers": layers}).plain()}, file)
    with pytest.raises(CheckpointError):
        Classifier.load(file)
