"""The table of Foolbox attacks is what the installed Foolbox has, and their names and parameters
read as those of ours.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import rbl_attacks.foolbox.table
from rbl_attacks.foolbox.catalogue import catalogue, load
from rbl_attacks.foolbox.table import ALIASES, ENTRIES
from robustbench_lite import registry
from robustbench_lite.cli import listing
from robustbench_lite.errors import MissingDependency, UnknownNameError, UsageError
from robustbench_lite.evaluation.identity import plugin_id
from robustbench_lite.evaluation.inputs import attack_from
from robustbench_lite.evaluation.names import short_label

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

BASE = foolbox.attacks.base
LEFT_OUT = {"BinarizationRefinementAttack", "DatasetAttack", "GenAttack", "SpatialAttack"}
INSTALLED = {
    value.__name__: value
    for value in vars(foolbox.attacks).values()
    if inspect.isclass(value) and issubclass(value, BASE.Attack) and not inspect.isabstract(value)
}
NORMS = {0: "l0", 1: "l1", 2: "l2", float("inf"): "linf"}


def test_every_attack_of_foolbox_is_in_the_table_or_left_out_for_a_reason() -> None:
    assert set(ENTRIES) == set(INSTALLED) - LEFT_OUT
    assert all(name in (rbl_attacks.foolbox.table.__doc__ or "") for name in LEFT_OUT)
    short = {
        name: value.__name__
        for name, value in vars(foolbox.attacks).items()
        if value in INSTALLED.values()
    }
    assert {name: meant for name, meant in short.items() if name != meant} == ALIASES


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_the_table_says_what_the_class_says(name: str) -> None:
    entry, found = ENTRIES[name], INSTALLED[name]
    assert issubclass(
        found,
        BASE.MinimizationAttack if entry.kind == "minimal_distance" else BASE.FixedEpsilonAttack,
    )
    distance = getattr(found, "distance", None)
    if (
        isinstance(distance, foolbox.distances.LpDistance) and name != "HopSkipJumpAttack"
    ):  # its distance is a parameter
        assert NORMS[distance.p] in entry.norms


@pytest.mark.parametrize(
    "name",
    [name for name, entry in ENTRIES.items() if entry.access == "gradient" and not entry.needs],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_targeted_says_whether_foolbox_aims_at_a_class(name: str) -> None:
    if "DeepFool" in name:  # takes any criterion, but walks to the nearest class
        assert not ENTRIES[name].targeted
        return
    model = foolbox.models.pytorch.PyTorchModel(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval(), (0, 1), device="cpu"
    )
    parameters = inspect.signature(INSTALLED[name].__init__).parameters
    attack: Any = INSTALLED[name](**({"steps": 1} if "steps" in parameters else {}))
    radius = {"epsilon": 0.1} if ENTRIES[name].kind == "fixed_eps" else {}
    x, criterion = (
        torch.full((1, 1, 2, 2), 0.5),
        foolbox.criteria.TargetedMisclassification(torch.tensor([1])),
    )
    with torch.random.fork_rng():
        try:
            attack.run(model, x, criterion, **radius)
            takes = True
        except ValueError as error:
            takes = "unsupported criterion" not in str(error)
    assert ENTRIES[name].targeted == takes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "foolbox:L2DeepFool",
            "No foolbox attack is named 'L2DeepFool'. Did you mean 'L2DeepFoolAttack'",
        ),
        ("foolbox:L2DeepFoolAttack step=5", "Did you mean 'steps'"),
        ("foolbox:L2DeepFoolAttack steps=many", "steps of attack"),
        ("foolbox:L2DeepFoolAttack loss=hinge", "loss of attack"),
        ("foolbox:L2DeepFoolAttack restarts=0", "restarts of at least 1"),
        ("foolbox:SparseL1DescentAttack quantile=2", "quantile needs to be between 0 and 1"),
        ("foolbox:VirtualAdversarialAttack", "needs steps"),
        ("foolbox:HopSkipJumpAttack constraint=l2", "No parameter"),
        ("foolbox:DatasetAttack", "No foolbox attack"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attack_from(spec)


def test_records_name_the_class_its_parameters_and_the_version_of_foolbox() -> None:
    attack = attack_from("foolbox:LinfPGD steps=7 rel_stepsize=1/10")
    identity = plugin_id("attack", attack)
    assert identity.name == "foolbox:LinfProjectedGradientDescentAttack"
    assert identity.parameters == {
        "restarts": 1,
        "rel_stepsize": 0.1,
        "abs_stepsize": None,
        "steps": 7,
        "random_start": True,
    }
    major, minor, patch = (int(part) for part in foolbox.__version__.split("."))
    assert identity.version % 1_000_000 == major * 10_000 + minor * 100 + patch
    assert (
        short_label("attack", attack)
        == "foolbox:LinfProjectedGradientDescentAttack rel_stepsize=0.1 steps=7"
    )
    assert attack_from(identity.label().replace("None", "none")) == attack


def test_every_name_loads_and_says_what_the_table_says() -> None:
    for name, entry in ENTRIES.items():
        if name not in catalogue():
            with pytest.raises(MissingDependency, match=f"pip install {entry.needs}"):
                load(name)
            continue
        attack = load(name)
        assert (attack.name, attack.kind, attack.norms) == (
            f"foolbox:{name}",
            entry.kind,
            entry.norms,
        )
        assert attack.__doc__
        assert "Foolbox" in attack.paper
    with pytest.raises(UnknownNameError):
        load("SpatialAttack")


def test_the_list_has_a_section_of_foolbox_attacks_and_imports_neither_torch_nor_foolbox() -> None:
    rows = listing._sections("attacks")["attacks of foolbox"]()
    assert [row["name"] for row in rows] == [f"foolbox:{name}" for name in catalogue()]
    program = (
        "import sys; from robustbench_lite.cli import main; code = main(['list', 'attacks']); "
        "sys.exit(code or bool({'torch', 'numpy', 'foolbox', 'rbl_attacks.foolbox.adapter'} & "
        "set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "foolbox:L2DeepFoolAttack" in process.stdout


def test_a_source_that_cannot_be_imported_breaks_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str, name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(registry, "source", missing)
    (row,) = listing._sections("attacks")["attacks of foolbox"]()
    assert "rbl doctor" in row["description"]
