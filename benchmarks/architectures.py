"""Networks of the families that people bring, with random weights.

What a pass costs does not depend on what was learned.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from harness import Subject
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer


def small_vgg() -> nn.Module:
    """Four convolutions with batch norm and max pooling, and two linear layers."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]

    body = [
        *block(3, 32),
        *block(32, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        *block(64, 64),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(
        *body, nn.Flatten(), nn.Linear(64 * 64, 128), nn.ReLU(inplace=True), nn.Linear(128, 10)
    )


def small_transformer() -> nn.Module:
    """Four layers over patches of 4 x 4 pixels."""
    return VisionTransformer(  # type: ignore[no-any-return]
        image_size=32,
        patch_size=4,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=10,
    )


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=10),
    "resnet18": lambda: models.resnet18(num_classes=10),
    "small_vgg": small_vgg,
    "vgg11_bn": lambda: models.vgg11_bn(num_classes=10),
    "vit": small_transformer,
}
"""Name -> a network for images (B, 3, 32, 32)."""


def with_random_weights(options: argparse.Namespace) -> Subject:
    """Make the network of ``--architecture``, with ``--images`` random images.

    Their labels are the classes that it gives them.
    """
    torch.manual_seed(0)
    model = ARCHITECTURES[options.architecture]()
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.normal_(head.weight, std=0.5)  # a new transformer gives every image the same logits
    model = model.to(options.device).eval().requires_grad_(False)
    x = torch.rand(options.images, 3, 32, 32).to(options.device)
    with torch.no_grad():
        y = torch.cat([model(part).argmax(1) for part in x.split(64)])  # type: ignore[no-untyped-call]
    return Subject(model, x, y)
