"""Live comparison with foolbox: the same iterates from the same start points."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.fgsm import FGSM
from rbl_attacks.pgd import PGD
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.lock_step import craft
from robustbench_lite.threat import ThreatModel
from tests.conftest import judged, untargeted

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # foolbox 3.3.4 imports a SciPy module by its old name
    import foolbox

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:foolbox", "ignore::DeprecationWarning:eagerpy"
)
EPS = {"linf": 0.1, "l2": 0.4}


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        .eval()
        .requires_grad_(False)
    )
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = torch.rand(20, 1, 8, 8, generator=generator)
    return model, x, model(x).argmax(1)


def peer(name: str, model: nn.Module, **options: Any) -> tuple[Any, Any]:
    return getattr(foolbox.attacks, name)(**options), foolbox.models.pytorch.PyTorchModel(
        model, bounds=(0, 1), device="cpu"
    )


def wins(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    return judged(attack, model, untargeted(x, y), threat, batch_size=32)[0]


@pytest.mark.parametrize(("norm", "name"), [("linf", "LinfPGD"), ("l2", "L2PGD")])
@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_takes_the_same_steps_from_the_same_start(
    case: tuple[nn.Module, Tensor, Tensor], norm: str, name: str, steps: int
) -> None:
    model, x, y = case
    attack, wrapped = peer(name, model, steps=steps, abs_stepsize=0.02, random_start=False)
    theirs = attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPS[norm])
    mine = PGD(steps=steps, step_size=0.02, random_start=False)
    ours = craft(
        model, mine, x, y, ThreatModel.parse(norm, EPS[norm]), index=torch.arange(20), seed=0
    )
    assert (ours - x).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("norm", "name"), [("linf", "LinfFastGradientAttack"), ("l2", "L2FastGradientAttack")]
)
def test_fgsm_without_the_sweep_gives_the_same_verdicts(
    case: tuple[nn.Module, Tensor, Tensor], norm: str, name: str
) -> None:
    model, x, y = case
    attack, wrapped = peer(name, model)
    theirs = attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPS[norm])
    verdicts = wins(FGSM(sweep=False), model, x, y, ThreatModel.parse(norm, EPS[norm]))
    assert 0 < verdicts.sum() < len(y)
    assert torch.equal(verdicts, model(theirs).argmax(1) != y)


@pytest.mark.parametrize(
    ("norm", "name"), [("linf", "LinfFastGradientAttack"), ("l2", "L2FastGradientAttack")]
)
def test_fgsm_for_training_takes_the_same_step(
    case: tuple[nn.Module, Tensor, Tensor], norm: str, name: str
) -> None:
    model, x, y = case
    attack, wrapped = peer(name, model)
    theirs = attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=EPS[norm])
    ours = craft(
        model,
        FGSM(sweep=False),
        x,
        y,
        ThreatModel.parse(norm, EPS[norm]),
        index=torch.arange(20),
        seed=0,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_tie_is_no_success() -> None:
    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.flatten(1)[:, :2]

    x, y = (
        torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 0]),
    )
    assert not wins(PGD(steps=2), Tied(), x, y, ThreatModel.parse("linf", 0.3)).any()
