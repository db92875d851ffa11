"""A user's network is copied whatever it holds, or refused with the reason."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import robustbench_lite as rbl
from robustbench_lite.errors import ModelError
from robustbench_lite.model.copies import frozen_twin, own_copy
from tests.conftest import images

X = images(8)


def made(wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old weight norm
        torch.manual_seed(0)
        first, last = wrap(nn.Conv2d(1, 4, 3, stride=2)), wrap(nn.Linear(16, 3))
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), last).eval()


class Keeping(nn.Module):
    """Keeps its features, in an attribute, in a list and inside of an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen, self.store = made(), [], type("Store", (), {})()  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.net[:3](x)
        self.seen = [self.features]
        self.store.last = {"features": self.features}
        return self.net[3](self.features)  # type: ignore[no-any-return]


def on_the_cpu(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network as where there is no accelerator, real or pretended."""
    which = "torch.nn.parallel.data_parallel._get_available_device_type"
    with mock.patch(which, return_value=None):
        return make()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: made(nn.utils.weight_norm),
    "spectral norm": lambda: made(nn.utils.spectral_norm),
    "parametrised weight norm": lambda: made(parametrizations.weight_norm),
    "pruned": lambda: made(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)),  # type: ignore[no-untyped-call]
    "keeps its features": lambda: Keeping().eval(),
    "DataParallel": lambda: on_the_cpu(lambda: nn.DataParallel(made()).eval()),
    "scripted": lambda: torch.jit.script(made()),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(made())),
    "traced": lambda: torch.jit.trace(made(), X[:2]),  # type: ignore[no-untyped-call]
    "fx": lambda: torch.fx.symbolic_trace(made()),
}


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_after_a_forward_pass_the_copy_computes_the_same_and_shares_nothing(name: str) -> None:
    network = NETWORKS[name]()
    with torch.enable_grad():
        expected = network(X.clone().requires_grad_()).detach()
    copy = own_copy(network)
    torch.testing.assert_close(copy(X).detach(), expected)
    theirs = {tensor.data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    assert not theirs & {tensor.data_ptr() for tensor in [*copy.parameters(), *copy.buffers()]}
    cell = rbl.evaluate(network, (X, expected.argmax(1)), "pgd steps=2", eps=0.05).cells[0]
    assert cell.clean_accuracy == 1


def test_a_twin_shares_its_parameters_and_nothing_else() -> None:
    network: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    twin: Any
    twin, again = frozen_twin((network, network[0]))
    assert again is twin[0]
    assert [p.data_ptr() for p in twin.parameters()] == [p.data_ptr() for p in network.parameters()]
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert twin[1].running_mean.data_ptr() != network[1].running_mean.data_ptr()


def test_generators_and_locks_are_copied() -> None:
    network: Any = made()
    network.draw, network.lock = torch.Generator().manual_seed(5), threading.Lock()
    copy: Any = own_copy(network)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(3, generator=copy.draw), expected)
    assert torch.equal(torch.rand(3, generator=network.draw), expected)
    assert copy.lock is not network.lock


def test_what_cannot_be_copied_is_named_with_the_reason() -> None:
    class Session:
        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("a session is no value")

    network = made()
    network.helpers = {"onnx": [Session()]}  # type: ignore[assignment]
    with pytest.raises(
        ModelError,
        match=r"'helpers'\['onnx'\]\[0\] is a Session.*a session is no value.*__deepcopy__",
    ):
        own_copy(network)


def test_a_statically_quantised_network_is_attacked_by_labels_and_scores() -> None:
    quantised = pytest.importorskip("torch.ao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stubs = quantised.QuantStub(), quantised.DeQuantStub()
        network = nn.Sequential(stubs[0], *made(), stubs[1]).eval()
        network.qconfig = quantised.get_default_qconfig("fbgemm")
        prepared = quantised.prepare(network)
        prepared(X)
        network = quantised.convert(prepared).eval()
        logits = network(X)
        y = logits.argmax(1)
        untied = (
            logits.topk(2).values.diff().squeeze(1) < 0
        )  # quantised logits may be equal, and a tie is no right answer
        for attack, norm, eps in (
            ("boundary steps=10", "l2", None),
            ("one_pixel population=5 generations=2", "l0", 1),
        ):
            assert (
                rbl.evaluate(network, (X, y), attack, norm=norm, eps=eps).cells[0].clean_correct
                == untied.numpy()
            ).all()
        with pytest.raises(ModelError, match=r"no gradient.*boundary, zoo, one_pixel"):
            rbl.evaluate(network, (X, y), "pgd", eps=0.1)
