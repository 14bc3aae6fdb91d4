"""A card, random images and normalised images for tests of the classifier and its training."""

import numpy as np
import timm
import torch

from avatar_bench.config.catalogue import find_choices
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.models.profiling import count_flops, make_blank_image

PREPROCESSING = {"size": 32, "resize": "squash", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
MODELS = sorted(set(find_choices("model")) - {"timm", "clip_vit_l14", "dinov3_large", "pe_large"})  # 300 M each
# one model of each architecture and way of pooling
ARCHITECTURES = (
    *("convnext_tiny", "convnextv2_nano", "deit_tiny", "dinov2_small", "dinov3_small", "efficientnet_b0"),
    *("eva02_clip_base", "mae_base", "mobilenetv2", "mobilenetv3_small", "mobilevit", "pe_small", "resnet18"),
    *("siglip2_base", "swin_tiny", "vit_small"),
)
CARD = Card(classes=("a", "b", "c"), backbone="test_resnet", preprocessing=PREPROCESSING)


def images(n=4, size=32):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build_classifier(backbone, size=32, **options):
    """Return a classifier of three classes with random weights, in the layout that training leaves."""
    torch.manual_seed(0)
    net = timm.create_model(backbone, num_classes=3, **options)
    card = Card(("a", "b", "c"), backbone, {**PREPROCESSING, "size": size})
    return Classifier(card, net).eval().to(memory_format=torch.channels_last)


def normalised(batch):
    mean, std = (np.array(PREPROCESSING[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    return torch.from_numpy((batch.numpy() / 255 - mean) / std).float()


def side_of(net):
    """Return the image side, in pixels, that a network of the fixture `network` accepts."""
    return int(net.patch_embed.img_size[0]) if hasattr(net, "patch_embed") else 64


def count_macs(net, size):
    """Count the multiply-adds of convolutions and matrix products on one image, half of the FLOPs that torch counts."""
    with count_flops(net) as counter:
        net(make_blank_image(net, size))
    return int(counter.get_total_flops()) // 2
