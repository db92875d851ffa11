"""Train mode is refused where a layer behaves otherwise in it, and nowhere else."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.modes import HARMLESS, require_eval_mode, require_separate_rows


class Reads(nn.Module):
    """Behaves otherwise in train mode, by its own code."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


class ReadsElsewhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x

    @property
    def scale(self) -> float:
        return (lambda: 2.0 if getattr(self, "training") else 1.0)()  # noqa: B009


class Child(Reads):
    """Its parent reads the mode."""


class Wrapper(nn.Module):
    """Does nothing of its own, and prints its mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found

    def extra_repr(self) -> str:
        return f"training={self.training}"


def _hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(
        lambda module, inputs, output: output * 2 if module.training else output
    )
    return layer


def _wrapped() -> nn.Module:
    class Decorated(nn.Module):
        @functools.wraps(Reads.forward)
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return Reads.forward(self, x)  # type: ignore[arg-type]

    return Decorated()


ACTING = {
    "dropout": lambda: nn.Dropout(0.1),
    "feature dropout": lambda: nn.Dropout2d(0.1),
    "alpha dropout": lambda: nn.AlphaDropout(0.1),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "instance norm that tracks": lambda: nn.InstanceNorm2d(3, track_running_stats=True),
    "rrelu": nn.RReLU,
    "lstm with dropout": lambda: nn.LSTM(3, 3, 2, dropout=0.1),
    "attention with dropout": lambda: nn.MultiheadAttention(4, 2, dropout=0.1),
    "a transformer with dropout": lambda: nn.TransformerEncoderLayer(4, 2, dropout=0.1),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 3)),
    "old spectral norm": lambda: spectral_norm(nn.Linear(3, 3)),
    "own code": Reads,
    "own code in a property": ReadsElsewhere,
    "code of a parent": Child,
    "a hook": _hooked,
    "a decorated forward": _wrapped,
    "TorchScript": lambda: torch.jit.script(nn.Linear(3, 3)),
}
HARMLESS_LAYERS = {
    "linear": lambda: nn.Linear(3, 3),
    "a wrapper": lambda: Wrapper(nn.Dropout().eval()),
    "a sequence": lambda: nn.Sequential(nn.Dropout().eval(), nn.ReLU(), nn.BatchNorm2d(3).eval()),
    "no dropout": lambda: nn.Dropout(0.0),
    "instance norm": lambda: nn.InstanceNorm2d(3),
    "group norm": lambda: nn.GroupNorm(1, 3),
    "lstm": lambda: nn.LSTM(3, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "a transformer": lambda: nn.TransformerEncoderLayer(4, 2, dropout=0.0),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
}


@pytest.mark.filterwarnings("ignore:`torch:FutureWarning")
@pytest.mark.parametrize("kind", ACTING)
def test_train_mode_of_a_layer_that_behaves_otherwise_in_it_is_refused_and_named(kind: str) -> None:
    layer = ACTING[kind]()  # type: ignore[no-untyped-call]
    model = nn.ModuleList([nn.ReLU(), layer]).eval()
    assert require_eval_mode(model) is None
    layer.train()
    with pytest.raises(ModelError, match=r"layer '1.*model\.eval\(\)"):
        require_eval_mode(model)


@pytest.mark.parametrize("kind", HARMLESS_LAYERS)
def test_train_mode_that_changes_nothing_is_let_through_with_a_remark(kind: str) -> None:
    layer = HARMLESS_LAYERS[kind]()  # type: ignore[no-untyped-call]
    model = nn.ModuleList([layer]).eval()
    for module in model.modules():
        module.training = True
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.BatchNorm2d) and kind in ("a wrapper", "a sequence"):
            module.training = False
    assert require_eval_mode(model) == HARMLESS


def test_a_model_that_is_one_layer_is_named_as_itself() -> None:
    with pytest.raises(ModelError, match=r"the model itself \(Reads\)"):
        require_eval_mode(Reads())


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
)
def test_batch_norm_that_takes_the_statistics_of_the_batch_is_refused(
    layer: type[nn.Module],
) -> None:
    require_separate_rows(nn.Sequential(layer(3)))
    with pytest.raises(ModelError, match=f"layer '0' .{layer.__name__}"):
        require_separate_rows(nn.Sequential(layer(3, track_running_stats=False)))


def test_norms_of_single_images_are_let_through() -> None:
    require_separate_rows(nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3)))
