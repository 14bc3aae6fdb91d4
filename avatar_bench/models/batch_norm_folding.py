"""Folding of batch norms into convolutions, for faster predictions on a CPU."""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

_MAX_DIFFERENCE = 1e-4  # of the largest output: beyond rounding


@torch.inference_mode()
def fold_batch_norms(classifier: Classifier) -> Classifier:
    """Return a copy in eval mode whose convolutions include the batch norms that follow them.

    Its outputs differ by rounding, some 1e-6. The classifier itself is returned if it has no such pair, or if the
    outputs of a random image differ by more, as where another module reads a convolution's output, too.
    """
    size = classifier.card.preprocessing["size"]
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=generator).to(classifier.device)
    pairs, expected = _find_pairs(classifier, image)
    if not pairs:
        return classifier
    folded = copy.deepcopy(classifier)
    for convolution, norm in pairs:
        unfolded: Any = folded.get_submodule(convolution)
        old: Any = folded.get_submodule(norm)
        folded.set_submodule(convolution, fuse_conv_bn_eval(unfolded, old))
        folded.set_submodule(norm, nn.Sequential(*old.children()))  # timm's contain the activation
    limits = [_MAX_DIFFERENCE * output.abs().max() for output in expected]
    differences = [(output - other).abs().max() for output, other in zip(expected, folded(image), strict=True)]
    return folded if all(map(torch.le, differences, limits)) else classifier


def _find_pairs(classifier: Classifier, image: Tensor) -> tuple[list[tuple[str, str]], tuple[Tensor, Tensor]]:
    """Return the names of each convolution and of the batch norm that reads its output, and an image's outputs."""
    made, pairs, calls = dict[int, tuple[str, Tensor]](), list[tuple[str, str]](), Counter[str]()

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[name] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = name, output  # kept, as another tensor would get its id
        elif id(inputs[0]) in made and module.running_mean is not None:
            pairs.append((made[id(inputs[0])][0], name))

    with ExitStack() as hooks:
        for name, module in classifier.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hook = module.register_forward_hook(lambda *call, name=name: note(name, *call))
                hooks.callback(hook.remove)
        outputs = classifier(image)
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1], outputs
