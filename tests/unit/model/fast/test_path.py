"""A fast path gives what the network gives, or is not taken; the judge never takes one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustbench_lite as rbl
from rbl_attacks.pgd import PGD
from rbl_defenses.none import NoDefense
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel, FastPath, Traits
from robustbench_lite.model.fast import path
from robustbench_lite.model.fast.path import CHANNELS_LAST, with_fast_path
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.lock_step import craft
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, points_of

SHAPE = (3, 16, 16)
X = images(12, SHAPE)


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """``network`` with fixed random weights and statistics, in eval mode."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            spread = torch.randn(tensor.shape, generator=draw) * 0.2
            tensor.copy_(
                1 + spread.abs()
                if name.endswith(("running_var", "weight")) and tensor.dim() == 1
                else spread
            )
    return network.eval()


def chain() -> nn.Sequential:
    """Three convolutions with what a small VGG has between them."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
        nn.Linear(128, 5),
    )


class Loop(nn.Module):
    """Runs its layers by what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer in chain() if not isinstance(layer, nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            if type(layer) is nn.Conv2d and layer.out_channels == 8 and layer.dilation == (1, 1):
                x = F.relu(x)
        return x


class Viewing(nn.Module):
    """Flattens by ``view``, which a tensor with channels last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = chain()[:7], nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.view(x.size(0), -1))  # type: ignore[no-any-return]


class Standardised(nn.Conv2d):
    """Weight standardisation, by ``view``."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(len(self.weight), -1)
        weight = ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)).view_as(
            self.weight
        )
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Descending(nn.Module):
    """A test-time defense: classifies the image after a step along the gradient of its own
    confidence.
    """

    def __init__(self, enable: bool = True) -> None:
        super().__init__()
        self.net, self.enable = chain(), enable

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.enable or torch.is_grad_enabled()):
            x = x if x.requires_grad else x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(x).logsumexp(1).sum(), x, create_graph=True)
            return self.net(x - 0.1 * gradient)  # type: ignore[no-any-return]


class Scribbling(nn.Module):
    """Normalises in place, as preprocessing does that was written for speed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.5).mul_(4))  # type: ignore[no-any-return]


class FiveDimensional(nn.Module):
    """A capsule's weight beside convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.capsule = chain()[:8], nn.Parameter(torch.zeros(1, 8, 5, 3, 16))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.body(x).reshape(len(x), 8, 1, 16, 1)
        return (self.capsule @ parts).sum(1).squeeze(-1).norm(dim=2)  # type: ignore[no-any-return]


class Standing(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            Standardised(3, 8, 3),
            nn.ReLU(),
            Standardised(8, 8, 4, 2),
            nn.ReLU(),
            Standardised(8, 5, 6),
            nn.Flatten(),
        )


class Bent(nn.Module):
    """A network with something about it that is slightly off."""

    def __init__(self, model: nn.Module, what: str) -> None:
        super().__init__()
        self.model, self.what = model, what

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return {  # type: ignore[no-any-return]
            "logits": z * 1.001,
            "offset": z + 0.001,
            "gradient": z.detach() + 0.98 * (z - z.detach()),
        }[self.what]


NETWORKS = [chain, Loop, Viewing, Descending, Scribbling, FiveDimensional, Standing]


def prepared(network: nn.Module) -> DefendedModel:
    model = diagnose(
        prepare(network, NoDefense(), torch.device("cpu")),
        X,
        torch.zeros(len(X), dtype=torch.int64),
    )
    return with_fast_path(model, X)


def points(x: Tensor, y: int = 1) -> Points:
    return points_of(x, torch.full((len(x),), y))


@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_gradients_and_verdicts_are_the_networks_own(kind: type[nn.Module]) -> None:
    network = filled(kind())
    given = copy.deepcopy(network)
    model, x = prepared(network), images(20, SHAPE, seed=3)
    leaf = x.clone().requires_grad_()
    expected = given(leaf.clone())
    (gradient,) = torch.autograd.grad(margin(expected, points(x).y, points(x).target).sum(), leaf)
    for passes in (Passes(model, 32, fast=True), Passes(model, 32)):
        logits, found = passes.gradient(points(x.clone()), margin)
        torch.testing.assert_close(logits, expected.detach(), rtol=1e-3, atol=1e-4)
        assert float((found - gradient).norm()) <= 1e-3 * float(gradient.norm())
    y = given(x.clone()).argmax(1)
    cell = rbl.evaluate(network, (x, y), "pgd steps=5", eps=0.03).cells[0]
    assert cell.clean_accuracy == 1
    assert not network.training
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), given.parameters(), strict=True)
    )


def test_the_judge_and_the_clean_accuracy_ask_the_network_as_it_was_given() -> None:
    asked: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            asked.append(self.name)
            return x.flatten(1)[:, :3]

    model = DefendedModel(
        Named("given"), Traits(), FastPath(Named("fast"), Named("followed"), None, ())
    )
    Passes(model, 16, fast=True).logits(points(X))
    assert asked == ["fast"]
    judge = Judge(Passes(model, 16, fast=True), ThreatModel.parse("linf", 0.1), "test", "cpu")
    judge.confirm(X, X, torch.zeros(12, dtype=torch.int64), torch.full((12,), -1), torch.arange(12))
    Passes(model, 16).logits(points(X))
    assert asked[1:] == ["given", "given"]


def test_the_given_network_keeps_its_layout_layers_and_what_gathers_gradients() -> None:
    network: Any = filled(chain())
    network[0].weight.requires_grad_(False)
    model = prepared(network)
    assert model.fast is not None
    assert model.fast.what[0] == CHANNELS_LAST
    assert not model.fast.writes
    assert model.module[0].weight.is_contiguous()  # type: ignore[index]
    assert [p.requires_grad for p in model.module.parameters()] == [
        p.requires_grad for p in network.parameters()
    ]
    assert not any(p.requires_grad for p in model.fast.module.parameters())
    assert "forward" not in vars(model.module[3])  # type: ignore[index]


@pytest.mark.parametrize("kind", [Viewing, Standing])
def test_what_no_layout_but_its_own_allows_keeps_its_own(kind: type[nn.Module]) -> None:
    model = prepared(filled(kind()))
    assert model.fast is not None
    assert CHANNELS_LAST not in model.fast.what


def test_a_layout_that_the_network_turns_back_between_convolutions_is_not_taken() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = chain()[0], chain()[3], chain()[6]

        def forward(self, x: Tensor) -> Tensor:
            x = (
                torch.stack([self.a(x), self.a(x)])
                .flatten(1)
                .mean(0)
                .reshape(len(x), 8, 16, 16)
                .contiguous()
            )
            return self.c(self.b(x)).mean((2, 3))  # type: ignore[no-any-return]

    model = prepared(filled(Mixed()))
    assert model.fast is not None
    assert model.fast.what == ("faster input gradients of 1 strided convolution",)


@pytest.mark.parametrize("wrong", ["logits", "gradient", "offset"])
def test_a_path_that_computes_something_else_is_not_taken(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = path._frozen

    def bent(modules: path.Modules, device: torch.device) -> FastPath:
        path = honest(modules, device)
        return path._replace(module=Bent(path.module, wrong), gradient=Bent(path.module, wrong))

    monkeypatch.setattr(path, "_frozen", bent)
    assert prepared(filled(chain())).fast is None


def test_a_network_that_changes_its_layers_by_name_of_class_is_measured_as_it_is() -> None:
    class Picky(Loop):
        def forward(self, x: Tensor) -> Tensor:
            first: Any = self.layers[0]
            return super().forward(x) * (1 if first.weight.is_contiguous() else -1)

    network = filled(Picky())
    assert prepared(network).fast is not None
    assert CHANNELS_LAST not in prepared(network).fast.what  # type: ignore[union-attr]


def test_a_forward_that_needs_gradients_enabled_gets_them() -> None:
    network = filled(Descending(enable=False))
    model = prepared(network)
    torch.testing.assert_close(Passes(model, 16).logits(points(X)), network(X.clone()).detach())


def test_no_image_of_the_caller_is_written_over() -> None:
    x = images(20, SHAPE)
    before = x.clone()
    network = filled(Scribbling())
    y = network(x.clone()).argmax(1)
    for attack, norm, eps in (
        ("boundary steps=5", "l2", None),
        ("pgd steps=2", "linf", 0.1),
        ("zoo steps=2", "l2", None),
    ):
        cell = rbl.evaluate(network, (x, y), attack, norm=norm, eps=eps).cells[0]
        assert cell.clean_accuracy == 1
        assert torch.equal(x, before)


def test_a_network_that_writes_over_its_input_is_certified_and_trained_as_its_twin() -> None:
    class Careful(Scribbling):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    first, second = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(64, 5)
    networks = []
    for kind in (Scribbling, Careful):
        network = kind()
        network.net = nn.Sequential(first, nn.ReLU(), nn.Flatten(), second)
        networks.append(filled(network))
    x, y = images(20, SHAPE), networks[0](images(20, SHAPE)).argmax(1)
    mine, theirs = (
        rbl.certify(network, (x, y), norm="linf", eps=0.001, method="crown") for network in networks
    )
    assert torch.equal(mine.margins, theirs.margins)
    found = [
        rbl.evaluate(
            network,
            (x, y),
            "pgd steps=3",
            defenses="feature_squeezing detect=true threshold=0.3",
            eps=0.02,
        ).cells[0]
        for network in networks
    ]
    assert (found[0].clean_correct == found[1].clean_correct).all()
    assert (found[0].robust == found[1].robust).all()
    threat, index = ThreatModel.parse("linf", 0.02), torch.arange(20)
    ours, others = (
        craft(network, PGD(steps=2), x, y, threat, index=index, seed=0) for network in networks
    )
    assert torch.equal(ours, others)


def test_a_network_that_erases_its_image_behind_it_gets_copies() -> None:
    class Erasing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(768, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.linear(x.flatten(1))
            x.data.zero_()
            return logits

    model, x = prepared(filled(Erasing())), X.clone()
    assert model.fast is None or model.fast.writes
    Passes(model, 16, fast=True).logits(points(x))
    assert torch.equal(x, X)


def test_a_random_network_draws_alike_on_both_paths() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = chain()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + 0.1 * torch.randn_like(x))  # type: ignore[no-any-return]

    model = with_fast_path(
        replace(
            prepare(filled(Noisy()), NoDefense(), torch.device("cpu")), traits=Traits(random=True)
        ),
        X,
    )
    assert model.fast is not None


@pytest.mark.parametrize(("kernel", "taken"), [(3, True), (1, False)])
def test_a_layout_in_which_torch_corrupts_memory_is_avoided(kernel: int, taken: bool) -> None:
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 5, kernel, stride=2),
        nn.Conv2d(5, 5, 3),
        nn.Flatten(),
        nn.LazyLinear(3),
    ]
    network = nn.Sequential(*layers)
    network(X)
    model = prepared(filled(network))
    assert model.fast is not None
    assert (CHANNELS_LAST in model.fast.what) == taken


@pytest.mark.parametrize("bent", ["surrogate", "own"])
def test_behind_a_defense_that_declares_a_stand_in_both_gradients_are_compared(
    bent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = path._frozen

    def one_bent(modules: path.Modules, device: torch.device) -> FastPath:
        path = honest(modules, device)
        assert path.surrogate is not None
        return (
            path._replace(surrogate=Bent(path.surrogate, "gradient"))
            if bent == "surrogate"
            else path._replace(gradient=Bent(path.gradient, "gradient"))
        )

    network = filled(chain())
    model = replace(
        prepare(network, NoDefense(), torch.device("cpu")),
        traits=Traits(surrogate=filled(chain(), seed=1)),
    )
    assert with_fast_path(model, X).fast is not None
    monkeypatch.setattr(path, "_frozen", one_bent)
    assert with_fast_path(model, X).fast is None
