"""Tests of Grad-CAM on every kind of backbone against the grad-cam package, of random weights, and of deletion."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from avatar_bench.errors import BlockError
from avatar_bench.models import attribution
from avatar_bench.models.attribution import SpatialLayer, compute_grad_cam, find_spatial_layer, randomise_layers
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
CLASSES = ("drawing", "generated", "real")
# backbone: (input size, the layer that is expected)
NETWORKS = {
    "mobilenetv3_small_100": (128, SpatialLayer("blocks.5", "NCHW", (4, 4))),
    "resnet18": (128, SpatialLayer("layer4", "NCHW", (4, 4))),
    "efficientnet_b0": (128, SpatialLayer("blocks.6", "NCHW", (4, 4))),
    "convnext_atto": (96, SpatialLayer("stages.3", "NCHW", (3, 3))),
    "tf_efficientnet_lite0": (128, SpatialLayer("blocks.6", "NCHW", (4, 4))),
    # the patches that leave the last block do not reach its class token
    "vit_small_patch16_224": (96, SpatialLayer("blocks.5.norm1", "tokens", (6, 6), prefix=1)),
    "vit_small_patch14_dinov2": (84, SpatialLayer("blocks.5.norm1", "tokens", (6, 6), prefix=1)),
    "mobilevit_s": (128, SpatialLayer("final_conv", "NCHW", (4, 4))),
    "test_vit2": (160, SpatialLayer("blocks.7", "tokens", (10, 10), prefix=1)),  # read off the mean of its patches
    "swin_tiny_patch4_window7_224": (112, SpatialLayer("layers.3", "NHWC", (4, 4))),
}
SIZES = {backbone: size for backbone, (size, _) in NETWORKS.items()} | {"pit_ti_224": 64}


@cache
def classifier(backbone):
    """Build a classifier with random weights, once; a test gives it back as it was."""
    options = {"img_size": SIZES[backbone]} if backbone.startswith(("vit", "swin", "pit")) else {}
    options |= {"depth": 6} if backbone.startswith("vit") else {}
    options |= {"depths": (2, 2, 2, 2)} if backbone.startswith("swin") else {}
    torch.manual_seed(0)
    net = timm.create_model(backbone, num_classes=3, **options)
    return Classifier(Card(CLASSES, backbone, PLAIN, options), net).eval()


def samples(n, size, seed=0):
    """Return images with coarse patches, so that their maps are not flat."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    return torch.nn.functional.interpolate(torch.from_numpy(coarse), (size, size), mode="nearest")


def stub(*stages):
    """Build a classifier whose stages are these modules, with the stated numbers of channels."""

    class Net(nn.Sequential):
        def forward_features(self, images):
            return self(images)

        def forward_head(self, features, pre_logits=False):
            return features.flatten(1)[:, :3]

        def get_classifier(self):
            return nn.Identity()

    net = Net(*(module for module, _ in stages))
    net.feature_info = [{"module": str(k), "num_chs": claimed, "reduction": 8} for k, (_, claimed) in enumerate(stages)]
    net.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return Classifier(Card(CLASSES, "stub", PLAIN), net).eval()


def test_a_map_of_one_cell_is_passed_over_and_what_is_no_map_is_refused():
    layer = find_spatial_layer(classifier("resnet18"), samples(1, 32))
    assert layer == SpatialLayer("layer3", "NCHW", (2, 2), last=False)
    mobile = classifier("mobilenetv3_small_100")
    mobile.net.feature_info.append({"module": "conv_head", "num_chs": 1024, "reduction": 32})
    layer = find_spatial_layer(mobile, samples(1, 128))
    mobile.net.feature_info.pop()
    assert layer == SpatialLayer("blocks.5", "NCHW", (4, 4), last=False)
    for stages in (
        [],
        [(nn.AdaptiveAvgPool2d(1), 3)],  # a single cell
        [(nn.Flatten(), 3)],  # a vector
        [(nn.Conv2d(3, 4, 3), 5)],  # other channels than it claims
        [(nn.Flatten(2), 32 * 32)],  # tokens that are no square of patches
        [(nn.Conv2d(3, 30, 3), 30)],  # channels that may come first or last
    ):
        with pytest.raises(BlockError, match="Grad-CAM") as caught:
            find_spatial_layer(stub(*stages), samples(1, 32))
        assert len(caught.value.lines) == 2


def reference(model, layer, images, targets):
    """Return the unrectified maps of the grad-cam package."""

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return self.model(batch)[0]

    def to_map(output):
        if layer.layout == "tokens":
            output = output[:, layer.prefix :].reshape(len(output), *layer.size, -1)
        return output if layer.layout == "NCHW" else output.permute(0, 3, 1, 2)

    module = model.net.get_submodule(layer.name)
    with GradCAM(Logits(), [module], reshape_transform=to_map) as cam:
        cam(images.float(), [ClassifierOutputTarget(int(target)) for target in targets])
        recorded = cam.activations_and_grads
        activations, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
        model.zero_grad()
        return cam.get_cam_image(images, module, None, activations, gradients)


@pytest.mark.parametrize("backbone", NETWORKS)
def test_maps_are_of_the_last_stage_with_one_and_equal_those_of_the_grad_cam_package(backbone):
    (size, layer), model, targets = NETWORKS[backbone], classifier(backbone), np.array([0, 1, 2])
    images = samples(3, size)
    assert find_spatial_layer(model, images[:1]) == layer
    maps = compute_grad_cam(model, layer, images, targets, batch_size=2, rectify=False)
    assert maps.shape == (3, *layer.size)
    assert maps.dtype == np.float32
    for computed, expected in zip(maps, reference(model, layer, images, targets), strict=True):
        assert np.corrcoef(computed.ravel(), expected.ravel())[0, 1] > 0.9999
        np.testing.assert_allclose(computed, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_signed_maps_add_up_to_the_logit_and_rectified_ones_keep_the_evidence_for_the_class():
    model, images, layer = classifier("resnet18"), samples(3, 128), NETWORKS["resnet18"][1]
    for k in range(3):  # its head is linear in the mean
        signed = compute_grad_cam(model, layer, images, np.full(3, k), rectify=False)
        with torch.no_grad():
            expected = model(images)[0][:, k] - model.net.fc.bias[k]
        np.testing.assert_allclose(signed.sum(axis=(1, 2)), expected.numpy(), rtol=1e-3, atol=1e-4)
        assert (signed < 0).any()
        rectified = compute_grad_cam(model, layer, images, np.full(3, k))
        np.testing.assert_allclose(rectified, np.maximum(signed, 0), rtol=1e-5, atol=1e-9)


def test_a_network_is_left_exactly_as_it_was_and_may_have_been_used_in_inference_mode():
    model, images = classifier("mobilenetv3_small_100"), samples(2, 128)
    model.net.conv_stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    layer = find_spatial_layer(model, images)
    compute_grad_cam(model, layer, images, np.zeros(2, int))
    list(randomise_layers(model, seed=0, steps=2))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    model.net.conv_stem.weight.requires_grad_(True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not model.training
    torch.manual_seed(0)
    images = samples(2, 128)
    with torch.inference_mode():
        net = timm.create_model("resnet18", num_classes=3)
        model = Classifier(Card(CLASSES, "resnet18", PLAIN), net).eval()
        model(images)
        layer = find_spatial_layer(model, images)
        maps = compute_grad_cam(model, layer, images, np.array([0, 1]), rectify=False)
    np.testing.assert_allclose(maps, reference(classifier("resnet18"), layer, images, np.array([0, 1])), rtol=1e-3)


def test_the_cascade_draws_weights_and_statistics_anew_from_the_head_downward_by_its_seed_alone():
    model = classifier("tf_efficientnet_lite0")
    state = model.net.state_dict()
    networks = list(randomise_layers(model, seed=1, steps=3))
    assert [drawn for drawn, _, _ in networks] == [1, 5, 9]
    assert {of for _, of, _ in networks} == {9}
    assert [drawn for drawn, _, _ in randomise_layers(model, steps=1)] == [9]
    changed = [
        {name for name, value in network.net.state_dict().items() if not torch.equal(value, state[name])}
        for _, _, network in networks
    ]
    assert "classifier.weight" in changed[0]
    assert "conv_stem.weight" not in changed[1]
    assert changed[0] < changed[1] < changed[2]
    assert {name for name in state if name.endswith("conv_dw.weight") or name == "conv_stem.weight"} < changed[2]
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=3)
    net.bn1.running_mean.fill_(3)
    net.layer4[1].bn2.running_mean.fill_(3)
    model = Classifier(Card(CLASSES, "resnet18", PLAIN), net).eval()
    means = [
        (float(network.net.bn1.running_mean.mean()), float(network.net.layer4[1].bn2.running_mean.mean()))
        for _, _, network in randomise_layers(model, steps=3)
    ]
    assert (means[0][0], means[1:]) == (3, [(3, 0), (0, 0)])
    model = classifier("mobilenetv3_small_100")
    heads = []
    for seed in (0, 0, 1):
        before = torch.random.get_rng_state()
        heads.append(next(iter(randomise_layers(model, seed, 2)))[2].net.classifier.weight)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def rolled_out(net, tokens):
    """Multiply the layers' attention by hand, from their weights, in double precision."""
    total = np.eye(tokens.shape[1])
    with torch.no_grad():
        for block in net.blocks:
            attn = block.attn
            n, width = tokens.shape[1], tokens.shape[2] // attn.num_heads
            qkv = attn.qkv(block.norm1(tokens)).reshape(n, 3, attn.num_heads, width).double().numpy()
            scores = np.einsum("ihd,jhd->hij", qkv[:, 0], qkv[:, 1]) / np.sqrt(width)
            weights = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
            mixed = weights.mean(axis=0) + np.eye(n)
            total = (mixed / mixed.sum(axis=1, keepdims=True)) @ total
            tokens = block(tokens)
    return total


def test_rollout_equals_the_product_of_the_layers_attention_where_a_class_token_attends_to_patches():
    model, images = classifier("vit_small_patch16_224"), samples(3, 96)
    maps, net = attribution.compute_attention_rollout(model, images, batch_size=2), model.net
    assert maps is not None
    assert maps.shape == (3, 6, 6)
    for image, attention in zip(images, maps, strict=True):
        with torch.no_grad():
            tokens = net._pos_embed(net.patch_embed(model._normalise(image[None])))
        total = rolled_out(net, tokens)
        np.testing.assert_allclose(total.sum(axis=1), 1)
        np.testing.assert_allclose(attention.ravel(), total[0, 1:], rtol=1e-3)
    assert all(block.attn.fused_attn for block in net.blocks)  # its own attention is left as it was
    assert not any(module._forward_hooks for module in net.modules())
    for backbone in ("resnet18", "swin_tiny_patch4_window7_224", "test_vit2", "mobilevit_s", "pit_ti_224"):
        assert attribution.compute_attention_rollout(classifier(backbone), samples(1, SIZES[backbone])) is None


class Counter(nn.Module):
    """Return the proportion of white pixels as the logit of class 0, and 0 for the other classes."""

    device = torch.device("cpu")
    card = SimpleNamespace(temperature=0.5)

    def compute(self, images):
        white = (images == 255).float().mean(dim=(1, 2, 3))
        return torch.stack([white, 0 * white, 0 * white], dim=1), white


def test_images_fade_in_equal_steps_by_rank_between_the_probabilities_of_whole_images():
    start, end = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.full((5, 3, 8, 8), 255, dtype=torch.uint8)
    end[:, :, :, 4:] = 0  # the right half stays black
    left_first = np.tile(np.arange(64).reshape(8, 8).T, (5, 1, 1))
    classes = np.array([0, 0, 1, 2, 0])
    curves = attribution.compute_replacement_curves(Counter(), start, end, left_first, classes, steps=4, batch_size=2)
    logits = np.array([0, 0.25, 0.5, 0.5, 0.5]) / 0.5
    white = np.exp(logits) / (np.exp(logits) + 2)
    np.testing.assert_allclose(curves[0], white, rtol=1e-6)
    np.testing.assert_allclose(curves[[2, 3]], [(1 - white) / 2] * 2, rtol=1e-6)
    np.testing.assert_allclose(curves[4], white, rtol=1e-6)
    model, images = classifier("resnet18"), samples(3, 64)
    empty, classes = attribution.make_baseline(images, "blur"), np.array([0, 1, 2])
    ranks = np.tile(np.random.default_rng(0).permutation(64 * 64).reshape(64, 64), (3, 1, 1))
    curves = attribution.compute_replacement_curves(model, images, empty, ranks, classes, steps=3)
    with torch.no_grad():
        for column, shown in ((0, images), (-1, empty)):
            expected = torch.softmax(model(shown)[0], dim=1).numpy()[np.arange(3), classes]
            np.testing.assert_allclose(curves[:, column], expected, rtol=1e-4)


def test_a_void_image_keeps_its_colour_or_its_coarse_shape():
    images = samples(2, 64)
    flat, blurred = attribution.make_baseline(images, "mean"), attribution.make_baseline(images, "blur")
    np.testing.assert_array_equal(flat[:, :, 0, 0], images.float().mean(dim=(2, 3)).round())
    assert (flat == flat[:, :, :1, :1]).all()
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    weights = np.outer(kernel, kernel) / kernel.sum() ** 2
    expected = (images[0, 0, 15:26, 15:26].numpy() * weights).sum()
    assert float(blurred[0, 0, 20, 20]) == pytest.approx(expected, abs=1)
    assert blurred.dtype == flat.dtype == torch.uint8
