"""A pixel's change, followed through the network, gives the logits of a whole pass."""

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.diagnosis import prepare
from robustbench_lite.registry import load
from robustbench_lite.search.incremental import Incremental
from robustbench_lite.sources.networks import Normalize, convolutional, residual


def chain(shape, layers, hidden=(), classes=4, front=()):
    """Convolutions of ``layers`` (channels, kernel, stride, padding), each with a ReLU, then linear layers."""
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


def neighbours(shape, rows, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(rows, *shape, generator=generator)
    owner = torch.randint(rows, (count,), generator=generator)
    place = torch.randint(shape[1] * shape[2], (count,), generator=generator)
    pixel = torch.rand(count, shape[0], generator=generator)
    whole = base[owner].flatten(2)
    whole[torch.arange(count), :, place] = pixel
    return base, owner, place, pixel, whole.reshape(count, *shape)


def assert_same_logits(model, shape, rows=3, count=200):
    incremental = Incremental.of(model, shape)
    assert incremental is not None
    base, owner, place, pixel, whole = neighbours(shape, rows, count)
    torch.testing.assert_close(incremental.logits(base, owner, place, pixel), model(whole), rtol=1e-4, atol=1e-4)


@pytest.fixture(autouse=True)
def any_gain(monkeypatch):
    monkeypatch.setattr("robustbench_lite.search.incremental.LEAST_GAIN", 0.0)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@given(
    layers=st.lists(st.tuples(st.integers(1, 3), pairs(1, 4), pairs(1, 3), pairs(0, 2)), min_size=1, max_size=3),
    shape=st.tuples(st.integers(1, 3), st.integers(9, 14), st.integers(9, 14)),
    hidden=st.lists(st.integers(1, 5), max_size=2),
)
def test_any_chain_gives_the_logits_of_a_whole_pass(layers, shape, hidden):
    try:
        model = chain(shape, layers, hidden)
    except RuntimeError:
        reject()  # the image is too small for these kernels
    if Incremental.of(model, shape) is not None:
        assert_same_logits(model, shape, count=60)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_networks_of_the_package_as_they_are_and_prepared(shape):
    model = convolutional(*shape[:2]).eval().requires_grad_(False)
    assert_same_logits(model, shape)
    assert_same_logits(prepare(model, load("defense", "none")(), torch.device("cpu")).module, shape)


def test_normalisation_comes_first():
    assert_same_logits(chain((3, 12, 12), [(4, 3, 1, 1)], front=[Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])]), (3, 12, 12))


@pytest.mark.parametrize("bits", [1, 4])
def test_a_squeezer_that_rounds_comes_first(bits):
    defense = load("defense", "feature_squeezing")(bits=bits)
    assert_same_logits(prepare(convolutional().eval(), defense, torch.device("cpu")).module, (1, 28, 28))


def test_a_squeezer_that_looks_around_does_not():
    defense = load("defense", "feature_squeezing")(bits=4, median=2)
    module = prepare(convolutional().eval(), defense, torch.device("cpu")).module
    assert Incremental.of(module, (1, 28, 28)) is None


def test_the_base_itself_has_exactly_its_own_logits():
    model = convolutional().eval()
    base, *_ = neighbours((1, 28, 28), 2, 1)
    owner = torch.arange(2).repeat(8)
    logits = Incremental.of(model, (1, 28, 28)).logits(base, owner, 50 * owner, base.flatten(1)[owner, 50 * owner, None])
    assert torch.equal(logits[:2], logits[2:4])
    torch.testing.assert_close(logits[:2], model(base))


def test_a_points_logits_do_not_depend_on_its_company():
    model, (base, owner, place, pixel, _) = convolutional().eval(), neighbours((1, 28, 28), 4, 300)
    incremental = Incremental.of(model, (1, 28, 28))
    together = incremental.logits(base, owner, place, pixel)
    for part in (slice(0, 1), slice(10, 13), slice(100, 190)):
        alone = incremental.logits(base, owner[part], place[part], pixel[part])
        torch.testing.assert_close(alone, together[part], rtol=1e-6, atol=1e-6)


def hooked():
    model = convolutional().eval()
    model[2].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        residual().eval(),
        hooked(),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3, 3, 1, padding_mode="circular"), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10), nn.ReLU()),
    ],
    ids=["residual", "hooked", "linear", "no relu", "circular", "pooled", "relu last"],
)  # fmt: skip
def test_other_networks_are_left_to_whole_passes(model):
    assert Incremental.of(model, (1, 28, 28)) is None


def test_windows_that_grow_too_large_are_never_built():
    layers = [nn.Conv2d(64, 64, 3, padding=1, device="meta") for _ in range(8)]
    first = nn.Conv2d(3, 64, 3, padding=1, device="meta")
    chain_of = [part for layer in (first, *layers) for part in (layer, nn.ReLU())]
    model = nn.Sequential(*chain_of, nn.Flatten(), nn.Linear(64 * 32 * 32, 10, device="meta"))
    assert Incremental.of(model, (3, 32, 32)) is None


def test_a_network_that_gains_nothing_is_left_to_whole_passes(monkeypatch):
    model = chain((1, 9, 9), [(2, 3, 1, 1)] * 3)
    assert Incremental.of(model, (1, 9, 9)) is not None
    monkeypatch.setattr("robustbench_lite.search.incremental.LEAST_GAIN", 3.0)
    assert Incremental.of(model, (1, 9, 9)) is None
