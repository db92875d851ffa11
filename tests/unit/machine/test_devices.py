"""Where networks lie, and where there is float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite.machine.devices import device_of, in_float64


def test_where_the_device_has_float64_a_tensor_stays_where_it_is() -> None:
    x = torch.tensor([0.1])
    assert in_float64(x).dtype == torch.float64
    assert float(in_float64(x)) == float(x)


@pytest.mark.parametrize(
    "network", [nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.Identity()]
)
def test_a_network_lies_where_its_tensors_do(network: nn.Module) -> None:
    assert device_of(network) == torch.device("cpu")
    if next(iter(network.state_dict()), None) is not None:
        assert device_of(network.to("meta")) == torch.device("meta")
