"""Networks from outside: state dicts that their authors have published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

_MEAN = (0.485, 0.456, 0.406)
_SCALE = (0.225, 0.225, 0.225)


class Normalised(nn.Module):
    """A network behind the normalisation of its training images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean = nn.Buffer(torch.tensor(_MEAN).reshape(3, 1, 1))
        self.scale = nn.Buffer(torch.tensor(_SCALE).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.scale)  # type: ignore[no-any-return]


def wong_kolter(path: Path) -> nn.Module:
    """Read a small network of Wong and Kolter 2018, arXiv:1711.00851: conv16, conv32, fc100, fc10.

    Those of colour images expect them normalised.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    state = found.get("state_dict", found)
    state = state[0] if isinstance(state, list) else state
    channels = state["0.weight"].shape[1]
    hidden, flat = state["5.weight"].shape
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(),
        nn.Linear(hidden, len(state["7.bias"])),
    )
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return Normalised(network).eval() if channels == 3 else network
