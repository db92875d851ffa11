"""No point of the region beats a bound: random small networks, norms, boxes, methods, with random
and attacked points.
"""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_lite.bounds.certify import METHODS, certify
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.bounds.hidden import ADAPTIVE, CHORDS, INTERVALS, Bounding, hidden_bounds
from robustbench_lite.bounds.region import region_of
from robustbench_lite.model.layers import Normalize
from robustbench_lite.sources.networks import ResidualBlock
from robustbench_lite.threat import NORMS, ThreatModel
from tests.conftest import present

SIDE = 7


def network(generator: torch.Generator, kind: str, slope: float) -> nn.Module:
    """A small random network of every supported layer."""
    activation = nn.ReLU() if slope == 0 else nn.LeakyReLU(slope)
    bodies: dict[str, Callable[[], list[nn.Module]]] = {
        "plain": lambda: [
            nn.Conv2d(2, 3, 3, stride=2),
            activation,
            nn.Conv2d(3, 2, 2),
            activation,
            nn.Flatten(),
            nn.Linear(8, 3),
        ],
        "residual": lambda: [
            Normalize([0.4, 0.5], [0.5, 0.7]),
            ResidualBlock(2, 2, 1),
            ResidualBlock(2, 3, 2),
            nn.Flatten(),
            nn.Linear(48, 3),
        ],
        "pooled": lambda: [
            nn.Conv2d(2, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            activation,
            nn.Conv2d(2, 2, 3, padding=2, dilation=2),
            activation,
            nn.BatchNorm2d(2),
            nn.AvgPool2d(2),
            nn.Conv2d(2, 4, 3, padding=1, groups=2),
            activation,
            nn.Flatten(),
            nn.Linear(36, 6),
            activation,
            nn.Linear(6, 3),
        ],
    }
    model = nn.Sequential(*bodies[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            elif len(parameter) > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                present(module.running_mean).normal_(generator=generator)
                present(module.running_var).uniform_(0.5, 2, generator=generator)
    return model.eval()


def points(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    box: bool,
    generator: torch.Generator,
) -> Tensor:
    """Images in the region, (P, N, C, H, W): random ones, corners, and those of a few steps of PGD
    on the margin.
    """
    found, eps = [], present(threat.eps)
    for _ in range(6):
        noise = torch.randn(x.shape, generator=generator)
        found += [threat.norm.project(eps * s * noise, eps) for s in (0.3, 10.0)]
    delta = torch.zeros_like(x)
    for _ in range(12):
        x_adv = (x + delta).clamp(0, 1) if box else x + delta
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        own = logits.gather(1, y[:, None]).squeeze(1)
        margin = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), x_adv)
        delta = threat.norm.project(
            x_adv.detach() - x - eps / 2 * threat.norm.steepest(gradient), eps
        )
        found.append(delta)
    stacked = x + torch.stack(found)
    return stacked.clamp(0, 1) if box else stacked


draws = {
    "seed": st.integers(0, 2**31),
    "kind": st.sampled_from(["plain", "residual", "pooled"]),
    "slope": st.sampled_from([0, 0.1, 1]),
    "norm": st.sampled_from(["linf", "l2"]),
    "box": st.booleans(),
    "eps": st.floats(0.001, 0.4),
}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(method=st.sampled_from(METHODS), **draws)
def test_no_point_of_the_region_has_a_smaller_margin_than_the_bound(
    method: str, seed: int, kind: str, slope: float, norm: str, box: bool, eps: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = network(generator, kind, slope)
    x = torch.rand(4, 2, SIDE, SIDE, generator=generator)
    y = model(x).argmax(1)
    norm = "l2" if method == "lipschitz" else norm
    bound = certify(model, x, y, norm=norm, eps=eps, method=method, box=box).margins
    for x_adv in points(model, x, y, ThreatModel(NORMS[norm], eps), box, generator):
        logits = model.double()(x_adv.double())
        margin = logits.gather(1, y[:, None]).squeeze(1) - logits.scatter(
            1, y[:, None], -torch.inf
        ).amax(1)
        assert (margin >= bound - 1e-6).all()
        model.float()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(**draws)
def test_every_hidden_unit_stays_in_its_interval(
    seed: int, kind: str, slope: float, norm: str, box: bool, eps: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = network(generator, kind, slope)
    x = torch.rand(3, 2, SIDE, SIDE, generator=generator)
    graph = graph_of(model, (2, SIDE, SIDE))
    region = region_of(x.double(), NORMS[norm], torch.full((3,), eps), box=box)
    threat = ThreatModel(NORMS[norm], eps)
    reached = points(model, x, model(x).argmax(1), threat, box, generator)
    for method in (INTERVALS, CHORDS, ADAPTIVE):
        bounds = hidden_bounds(Bounding(graph, region), method)
        for x_adv in reached:
            x_adv = x_adv.double()
            values = graph.values(x_adv)
            for node, interval in bounds.items():
                assert (values[node] >= interval.lower - 1e-5).all()
                assert (values[node] <= interval.upper + 1e-5).all()
