"""A pixel's change, followed through the network, gives the logits of a whole pass."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch
import torchvision
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.fast.incremental import Incremental, attempt, why_not
from robustbench_lite.model.fast.neighbours import program
from robustbench_lite.model.fast.windows.slides import MaxPool, SlidConvolution
from robustbench_lite.model.layers import ConvexAggregation, Normalize
from robustbench_lite.registry import load
from robustbench_lite.sources.networks import convolutional, residual
from tests.conftest import present

N = TypeVar("N", bound=nn.Module)


def chain(
    shape: tuple[int, int, int],
    layers: Sequence[tuple[int, int, int, int]],
    hidden: Sequence[int] = (),
    classes: int = 4,
    front: Sequence[nn.Module] = (),
) -> nn.Sequential:
    """Convolutions of ``layers`` (channels, kernel, stride, padding), each with a ReLU, then linear
    layers.
    """
    torch.manual_seed(len(layers))
    made, x = [*front], torch.zeros(1, *shape)
    for channels, kernel, stride, padding in layers:
        made += [nn.Conv2d(x.shape[1], channels, kernel, stride, padding), nn.ReLU()]
        x = made[-2](x)
    made.append(nn.Flatten())
    width = x.numel()
    for outputs in hidden:
        made += [nn.Linear(width, outputs), nn.ReLU()]
        width = outputs
    return nn.Sequential(*made, nn.Linear(width, classes)).eval().requires_grad_(False)


def neighbours(
    shape: tuple[int, int, int], rows: int, count: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(rows, *shape, generator=generator)
    owner = torch.randint(rows, (count,), generator=generator)
    place = torch.randint(shape[1] * shape[2], (count,), generator=generator)
    pixel = torch.rand(count, shape[0], generator=generator)
    whole = base[owner].flatten(2)
    whole[torch.arange(count), :, place] = pixel
    return base, owner, place, pixel, whole.reshape(count, *shape)


def assert_same_logits(
    model: nn.Module, shape: tuple[int, int, int], rows: int = 3, count: int = 200
) -> None:
    incremental, reason = attempt(model, shape)
    assert incremental is not None, reason
    base, owner, place, pixel, whole = neighbours(shape, rows, count)
    torch.testing.assert_close(
        incremental.logits(base, owner, place, pixel), model(whole), rtol=1e-4, atol=1e-4
    )


@pytest.fixture(autouse=True)
def any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_lite.model.fast.incremental.LEAST_GAIN", 0.0)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@given(
    layers=st.lists(
        st.tuples(st.integers(1, 3), pairs(1, 4), pairs(1, 3), pairs(0, 2)), min_size=1, max_size=3
    ),
    shape=st.tuples(st.integers(1, 3), st.integers(9, 14), st.integers(9, 14)),
    hidden=st.lists(st.integers(1, 5), max_size=2),
)
def test_any_chain_gives_the_logits_of_a_whole_pass(
    layers: Sequence[tuple[int, int, int, int]], shape: tuple[int, int, int], hidden: Sequence[int]
) -> None:
    try:
        model = chain(shape, layers, hidden)
    except RuntimeError:
        reject()  # the image is too small for these kernels
    if Incremental.of(model, shape) is not None:
        assert_same_logits(model, shape, count=60)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_networks_of_the_package_as_they_are_and_prepared(shape: tuple[int, int, int]) -> None:
    model = convolutional(*shape[:2]).eval().requires_grad_(False)
    assert_same_logits(model, shape)
    assert_same_logits(prepare(model, load("defense", "none")(), torch.device("cpu")).module, shape)


def test_normalisation_comes_first() -> None:
    assert_same_logits(
        chain((3, 12, 12), [(4, 3, 1, 1)], front=[Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])]),
        (3, 12, 12),
    )


@pytest.mark.parametrize("bits", [1, 4])
def test_a_squeezer_that_rounds_comes_first(bits: int) -> None:
    defense = load("defense", "feature_squeezing")(bits=bits)
    assert_same_logits(
        prepare(convolutional().eval(), defense, torch.device("cpu")).module, (1, 28, 28)
    )


def test_a_squeezer_that_looks_around_does_not() -> None:
    defense = load("defense", "feature_squeezing")(bits=4, median=2)
    module = prepare(convolutional().eval(), defense, torch.device("cpu")).module
    assert Incremental.of(module, (1, 28, 28)) is None


def test_the_base_itself_has_exactly_its_own_logits() -> None:
    model = convolutional().eval()
    base, *_ = neighbours((1, 28, 28), 2, 1)
    owner = torch.arange(2).repeat(8)
    incremental = present(Incremental.of(model, (1, 28, 28)))
    logits = incremental.logits(base, owner, 50 * owner, base.flatten(1)[owner, 50 * owner, None])
    assert torch.equal(logits[:2], logits[2:4])
    torch.testing.assert_close(logits[:2], model(base))


def test_a_points_logits_do_not_depend_on_its_company() -> None:
    model, (base, owner, place, pixel, _) = convolutional().eval(), neighbours((1, 28, 28), 4, 300)
    incremental = present(Incremental.of(model, (1, 28, 28)))
    together = incremental.logits(base, owner, place, pixel)
    for part in (slice(0, 1), slice(10, 13), slice(100, 190)):
        alone = incremental.logits(base, owner[part], place[part], pixel[part])
        torch.testing.assert_close(alone, together[part], rtol=1e-6, atol=1e-6)


def is_hooked(at: int = 2) -> Any:
    model: Any = convolutional().eval()
    model[at].register_forward_hook(lambda *_: None)
    return model


def replaced() -> Any:
    model: Any = convolutional().eval()
    model[0].forward = lambda x: x[:, :, ::2, ::2].repeat(1, 16, 1, 1)
    return model


class Branching(nn.Module):
    """Nothing can follow a forward that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = convolutional()

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) if x.sum() > 0 else -self.inside(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (is_hooked(0), "gain too little.*layer '0' has hooks"),
        (replaced(), "gain too little.*layer '0' has hooks"),
        (Branching().eval(), "gain too little.*the network .Branching. cannot be followed"),
        (
            nn.Sequential(
                nn.Conv2d(1, 4, 3, 3, 1, padding_mode="circular"), nn.Flatten(), nn.Linear(400, 10)
            ),
            "layer '0'",
        ),
        (
            nn.Sequential(nn.GroupNorm(1, 1), *convolutional().children()),
            "layer '0' .GroupNorm. has no rule",
        ),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(7, 10)), "cannot be followed"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), "other logits"),
    ],
    ids=[
        "hooked",
        "forward replaced",
        "branching",
        "circular",
        "group norm",
        "wrong size",
        "no logits",
    ],
)
def test_other_networks_are_left_to_whole_passes_and_it_is_known_why(
    model: nn.Module, reason: str
) -> None:
    model = model.eval()
    assert Incremental.of(model, (1, 28, 28)) is None
    assert re.search(reason, present(why_not(model, (1, 28, 28))))


def test_a_network_with_a_short_way_has_no_reason_against_it() -> None:
    assert why_not(convolutional().eval(), (1, 28, 28)) is None


def test_windows_that_grow_too_large_are_never_built() -> None:
    layers = [nn.Conv2d(64, 64, 3, padding=1, device="meta") for _ in range(8)]
    first = nn.Conv2d(3, 64, 3, padding=1, device="meta")
    chain_of = [part for layer in (first, *layers) for part in (layer, nn.ReLU())]
    model = nn.Sequential(*chain_of, nn.Flatten(), nn.Linear(64 * 32 * 32, 10, device="meta"))
    assert Incremental.of(model, (3, 32, 32)) is None


def test_a_network_that_gains_nothing_is_left_to_whole_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = chain((1, 9, 9), [(2, 3, 1, 1)] * 3)
    assert Incremental.of(model, (1, 9, 9)) is not None
    monkeypatch.setattr("robustbench_lite.model.fast.incremental.LEAST_GAIN", 3.0)
    assert Incremental.of(model, (1, 9, 9)) is None


def shaken(model: N) -> N:
    """Batch norms with statistics, scales and shifts as training leaves them; every parameter
    frozen.
    """
    generator = torch.Generator().manual_seed(7)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (present(layer.running_mean), layer.bias.data):
                values.copy_(torch.randn(values.shape, generator=generator) * 0.3)
            for values in (present(layer.running_var), layer.weight.data):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return model.eval().requires_grad_(False)


def vgg(
    channels: int = 3,
    size: int = 16,
    inplace: bool = True,
    pool: Callable[[int], nn.Module] = nn.MaxPool2d,
    widths: Sequence[int] = (6, 8),
) -> nn.Sequential:
    torch.manual_seed(1)
    made, before = [], channels
    for width in widths:
        made += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace)]
        made += [
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace),
            pool(2),
        ]
        before, size = width, size // 2
    return shaken(nn.Sequential(*made, nn.Flatten(), nn.Linear(before * size**2, 10)))


def test_relu_in_place_gives_the_logits_of_relu() -> None:
    for shape, make in (((1, 28, 28), convolutional), ((3, 16, 16), vgg)):
        torch.manual_seed(0)
        model = make().eval().requires_grad_(False)
        base, owner, place, pixel, whole = neighbours(shape, 3, 100)
        found = []
        for inplace in (False, True):
            for layer in model.modules():
                if isinstance(layer, nn.ReLU):
                    layer.inplace = inplace
            found.append(present(Incremental.of(model, shape)).logits(base, owner, place, pixel))
        assert torch.equal(*found)
        torch.testing.assert_close(found[1], model(whole), rtol=1e-4, atol=1e-4)


def test_the_bases_are_left_as_they_are() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *vgg())
    base, owner, place, pixel, _ = neighbours((3, 16, 16), 20, 100)
    base -= 0.5
    before = base.clone()
    present(Incremental.of(model.eval(), (3, 16, 16))).logits(base, owner, place, pixel - 0.5)
    assert torch.equal(base, before)


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_networks_with_batch_norms_and_pools(pool: Callable[[int], nn.Module]) -> None:
    assert_same_logits(vgg(pool=pool), (3, 16, 16))


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18"])
def test_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(3)
    model = shaken(getattr(torchvision.models, name)(num_classes=10))
    base, owner, place, pixel, whole = neighbours((3, 32, 32), 2, 12)
    expected = model(whole)
    for module in (model, prepare(model, load("defense", "none")(), torch.device("cpu")).module):
        found = present(Incremental.of(module, (3, 32, 32))).logits(base, owner, place, pixel)
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_residual_network_of_the_package_gains(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model = residual(*shape[:2]).eval().requires_grad_(False)
    assert present(Incremental.of(model, shape)).gain > 2
    assert_same_logits(model, shape, count=60)


class Functional(nn.Module):
    """As people write them: functions, methods, views by sizes, sums and writing in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 6, 3, 1, 1),
            nn.Conv2d(6, 6, 3, 1, 1),
            nn.Conv2d(6, 5, 1, 2),
        )
        self.norm, self.join, self.head = (
            nn.BatchNorm2d(6),
            ConvexAggregation(2),
            nn.Linear(5 * 4 * 4, 7),
        )
        self.register_buffer("mean", torch.rand(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        x = (x - self.mean) / torch.tensor(0.3)
        x = F.relu(self.first(x), inplace=True)
        y = self.norm(self.second(x))
        y += x
        y.relu_()
        y = F.max_pool2d(self.join(y, 2 * x), 2)
        y = F.dropout(torch.tanh(self.third(y)), training=self.training)
        return self.head(y.view(batch, -1)) - 0.5  # type: ignore[no-any-return]


def test_functions_methods_and_writing_in_place() -> None:
    torch.manual_seed(2)
    assert_same_logits(shaken(Functional()), (3, 16, 16))


class Reused(nn.Module):
    """A ReLU that works in place changes what the skip connection adds later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, 4, 3, 1, 1),
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(F.relu(x, inplace=True))
        return self.head((y + x).mean((2, 3)))  # type: ignore[no-any-return]


class WrittenByTheRest(Reused):
    """What no window follows writes over a value that a known layer uses later."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        x.mul_(y)
        return self.head(torch.relu(x + y).mean((2, 3)))  # type: ignore[no-any-return]


class WrittenConstant(Reused):
    """A constant that takes up what is added to it."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1, 1, 1, 1)
        total = total + self.first(x)
        y = self.second(total)
        total += y
        return self.head((total - y).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Reused, WrittenByTheRest, WrittenConstant])
def test_a_value_written_over_is_the_new_one_wherever_it_is_used_later(
    kind: type[nn.Module],
) -> None:
    torch.manual_seed(2)
    assert_same_logits(kind().eval(), (1, 12, 12))


class Attention(nn.Module):
    """Known layers, then what no window can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 8, 3, 2, 1)),
            nn.LayerNorm(8),
        )
        self.mix, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)
        self.places = nn.Parameter(torch.randn(1, 16, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        tokens = self.norm(tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0])
        return self.head(tokens.mean(dim=1))  # type: ignore[no-any-return]


class Measured(nn.Module):
    """Shapes taken of the image, and of a known layer, are used where no window follows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, y = x.shape[0], torch.relu(self.first(x))
        tiles = y.reshape(batch, y.size(1), 4, 4, -1).sort(dim=-1).values
        return self.head(tiles[..., -1].reshape(batch, -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Attention, Measured])
def test_what_no_window_follows_is_run_whole(kind: type[nn.Module]) -> None:
    torch.manual_seed(4)
    assert_same_logits(kind().eval().requires_grad_(False), (3, 16, 16))


def test_a_layer_with_hooks_is_run_as_it_is() -> None:
    model = vgg()
    seen: list[int] = []

    def doubled(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
        seen.append(len(output))
        return 2 * output

    model[7].register_forward_hook(doubled)
    assert_same_logits(model, (3, 16, 16))
    assert seen


def test_a_module_that_cannot_be_followed_is_run_as_it_is() -> None:
    class Last(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.min() < 1e9 else x

    model = vgg()
    torch.manual_seed(5)
    assert_same_logits(nn.Sequential(*model[:-1], Last(128, 10)).eval(), (3, 16, 16))


ACTIVATIONS = [
    nn.LeakyReLU(0.2),
    nn.ELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
    nn.PReLU(4, 0.3),
    nn.ReLU6(),
    nn.Mish(),
    nn.Identity(),
    nn.Dropout(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
def test_any_activation(activation: nn.Module) -> None:
    torch.manual_seed(6)
    layers = [
        nn.Conv2d(2, 4, 3, 1, 2),
        activation,
        nn.Conv2d(4, 4, 3, 2, 1),
        activation,
        nn.Flatten(),
        nn.Linear(4 * 49, 3),
    ]
    assert_same_logits(nn.Sequential(*layers).eval(), (2, 12, 12))


BODIES = {
    "padded average": [
        nn.Conv2d(2, 4, 3, 1, 1),
        nn.AvgPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.ReLU(),
    ],
    "uncounted padding": [
        nn.Conv2d(2, 4, 3, 1, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.ReLU(),
    ],
    "overlapping maxima": [
        nn.Conv2d(2, 4, 3, 1, 1),
        nn.MaxPool2d(3, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(2, 1, ceil_mode=True),
    ],
    "rounded up": [nn.Conv2d(2, 4, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU()],
    "dilated": [
        nn.Conv2d(2, 4, 3, 1, 2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 2, 3),
        nn.MaxPool2d(2, dilation=2),
    ],
    "grouped": [
        nn.Conv2d(2, 4, 3, 1, 1, groups=2),
        nn.SiLU(),
        nn.Conv2d(4, 8, 3, 2, 1, groups=4),
        nn.ReLU(),
    ],
    "depthwise": [
        nn.Conv2d(2, 12, 1),
        nn.ReLU6(),
        nn.Conv2d(12, 12, 3, 1, 1, groups=12),
        nn.ReLU6(),
        nn.Conv2d(12, 4, 1),
    ],
    "skipping": [nn.Conv2d(2, 4, 2, 3), nn.ReLU(), nn.MaxPool2d(1, 2)],
    "same": [
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 5, padding="valid"),
        nn.ReLU(),
    ],
    "pooled to a grid": [nn.Conv2d(2, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)],
    "pooled to one": [nn.Conv2d(2, 4, 3, 1, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1)],
}


@pytest.mark.parametrize("layers", BODIES.values(), ids=BODIES)
def test_any_kernel(layers: list[nn.Module]) -> None:
    torch.manual_seed(8)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    body = nn.Sequential(*layers, nn.Flatten())
    features = body(torch.zeros(1, 2, 12, 12)).shape[1]
    assert_same_logits(nn.Sequential(*body, nn.Linear(features, 3)).eval(), (2, 12, 12))


POOLS = ["max", "mean", ""]


@given(
    blocks=st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(1, 3),
            st.integers(1, 2),
            st.integers(0, 2),
            st.sampled_from(["max", "mean", ""]),
        ),
        min_size=1,
        max_size=3,
    ),
    shape=st.tuples(st.integers(1, 3), st.integers(9, 14), st.integers(9, 14)),
    sliding=st.booleans(),
)
def test_any_chain_with_batch_norms_and_pools(
    blocks: list[tuple[int, int, int, int, str]], shape: tuple[int, int, int], sliding: bool
) -> None:
    torch.manual_seed(len(blocks))
    made, channels = [], shape[0]
    for width, kernel, stride, padding, pool in blocks:
        made += [
            nn.Conv2d(channels, width, kernel, stride, padding),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        made += (
            [nn.MaxPool2d(2)]
            if pool == "max"
            else [nn.AvgPool2d(3, 2, 1)]
            if pool == "mean"
            else []
        )
        channels = width
    body = shaken(nn.Sequential(*made, nn.Flatten()))
    try:
        features = body(torch.zeros(1, *shape)).shape[1]
    except RuntimeError:
        reject()  # the image is too small for these kernels
    with pytest.MonkeyPatch.context() as patch:
        if sliding:
            patch.setattr("robustbench_lite.model.fast.neighbours.rules.SLIDING_COST", 1e-9)
        model = nn.Sequential(*body, nn.Linear(features, 4)).eval()
        if Incremental.of(model, shape) is not None:
            assert_same_logits(model, shape, count=60)


@pytest.mark.parametrize("model", [vgg(), Attention().eval()], ids=["windows", "rest"])
def test_no_neighbours_have_no_logits(model: nn.Module) -> None:
    base, owner, place, pixel, _ = neighbours((3, 16, 16), 2, 0)
    classes = model(base).shape[1]
    assert present(Incremental.of(model, (3, 16, 16))).logits(base, owner, place, pixel).shape == (
        0,
        classes,
    )


@pytest.mark.parametrize("model", [vgg(widths=(6,)), Attention().eval()], ids=["windows", "rest"])
def test_parts_that_memory_is_for_give_the_same_logits(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, owner, place, pixel, _ = neighbours((3, 16, 16), 40, 300)
    incremental = present(Incremental.of(model, (3, 16, 16)))
    at_once = incremental.logits(base, owner, place, pixel)
    monkeypatch.setattr(program, "MOST_VALUES", 50_000)
    torch.testing.assert_close(
        incremental.logits(base, owner, place, pixel), at_once, rtol=1e-6, atol=1e-6
    )


def test_a_points_logits_do_not_depend_on_its_company_where_windows_slide() -> None:
    model, (base, owner, place, pixel, _) = vgg(widths=(32, 64)), neighbours((3, 16, 16), 4, 300)
    incremental = present(Incremental.of(model, (3, 16, 16)))
    together = incremental.logits(base, owner, place, pixel)
    for part in (slice(0, 1), slice(10, 13), slice(100, 190)):
        alone = incremental.logits(base, owner[part], place[part], pixel[part])
        torch.testing.assert_close(alone, together[part], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [MaxPool, SlidConvolution])
def test_a_rule_that_is_wrong_is_caught(rule: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_lite.model.fast.neighbours.rules.SLIDING_COST", 1e-9)
    model, right = vgg(), rule.__call__
    assert Incremental.of(model, (3, 16, 16)) is not None

    def wrong(self: Any, inputs: Any, known: Any) -> Any:
        windows = right(self, inputs, known)
        return windows._replace(change=1.1 * windows.change)

    monkeypatch.setattr(rule, "__call__", wrong)
    assert Incremental.of(model, (3, 16, 16)) is None
    assert "other logits" in present(why_not(model, (3, 16, 16)))


class Counting(nn.Module):
    """Remembers things, and draws a number nobody needs."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.calls = vgg(), 0
        self.last: Tensor | None = None
        self.shown: list[Any] = []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        self.shown.append(x)
        self.seen += 1
        return self.inside(x) + 0 * torch.rand(()) + torch.tensor([[0.5]])  # type: ignore[no-any-return]


def test_the_trial_leaves_the_network_and_the_global_generator_as_they_were() -> None:
    model = Counting().eval()
    state, generator = (
        {key: value.clone() for key, value in model.state_dict().items()},
        torch.get_rng_state(),
    )
    handle = model.inside[6].register_forward_hook(lambda *_: None)
    assert attempt(model, (3, 16, 16)).incremental is not None
    assert (model.calls, model.last, model.shown) == (0, None, [])
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    handle.remove()
    assert not model.inside[6]._forward_hooks
