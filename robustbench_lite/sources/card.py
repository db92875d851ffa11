"""The card of a trained network: how its weights came about, and what it is worth."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from robustbench_lite.errors import WeightsError
from robustbench_lite.files.reading import CARD_BYTES, Form
from robustbench_lite.files.text import read_model

_CARD = Form(
    noun="card",
    what="a card that is damaged",
    most=CARD_BYTES,
    error=WeightsError,
    fix="`rbl train` writes one beside the weights: restore both from one training.",
)


class Certified(BaseModel):
    """What was proved of a network on the first ``n`` test images.

    With the command that proves it again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    certified_accuracy: float
    """A fraction in [0, 1]: classified right wherever the ball lets the image go. The certified
    error is the rest.
    """
    method: str
    box: bool
    """Whether the ball was cut by [0, 1], the values that an image can have; published figures are
    of the plain ball.
    """
    norm: str
    eps: float
    n: int
    command: str


class Card(BaseModel):
    """What goes with a weights file, as JSON beside it.

    Accuracies are fractions in [0, 1] on the test split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    network: str
    """A name of ``networks.NETWORKS`` or ``package.module:factory``."""
    network_params: dict[str, int | float | str]
    dataset: str
    split: str
    data_fingerprint: str
    defense: str
    """Name and hyper-parameters, as ``rbl train --defense`` takes them."""
    defense_version: int
    weights_sha256: str
    command: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    clean_accuracy: float
    robust_accuracy: float
    attack: str
    """The attack behind ``robust_accuracy``."""
    norm: str
    eps: float
    n_test: int
    test_fingerprint: str
    curve: list[dict[str, float]]
    """One entry an epoch: ``epoch``, ``loss``, ``learning_rate``."""
    torch_version: str
    created: str
    """UTC, ISO 8601."""
    note: str = ""
    """What must stand beside its accuracies."""
    certified: list[Certified] | None = None
    """Written by ``scripts/certify_reference_networks.py``."""


def load_card(path: Path) -> Card:
    """Read the card of a trained network."""
    return read_model(path, _CARD, Card)
