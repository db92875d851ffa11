"""What proves robustness: a certifier has a name and a version, as an attack has, and goes into the
cell's key like one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustbench_lite.bounds.certify import METHODS, Certificate, proofs
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.errors import UnknownNameError
from robustbench_lite.threat import ThreatModel

_BATCH = 16
"""Samples a batch: few enough that the dearest method ends one within seconds."""


@dataclass(frozen=True, kw_only=True)
class Certifier(ABC):
    """Base of certifiers: frozen, keyword-only dataclasses of parameters. A defense may bring one
    of its own.
    """

    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """What records call it."""

    def check(self, model: nn.Module, shape: tuple[int, ...]) -> None:  # noqa: B027 -- nothing to say is the default
        """Raise ``UnsupportedLayerError`` for a network that it can prove nothing of, on images of
        ``shape`` (C, H, W).
        """

    @abstractmethod
    def prove(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
    ) -> Iterator[Certificate]:
        """Lower bounds of the margins under ``threat``, whose eps is a number, a few samples after
        the other.

        No sample's bound depends on the others.

        ``model`` is the network as deployed, in eval mode; ``x`` (N, C, H, W), ``y`` (N,) are on
        its device.

        Raises:
            UnsupportedLayerError: names the layer that no bound is known for.
        """


@dataclass(frozen=True, kw_only=True)
class BoundCertifier(Certifier):
    """Any method of :func:`robustbench_lite.bounds.certify.certify`, with the ball cut by the image
    bounds.

    Args:
        method: ``ibp``, ``crown-ibp``, ``dual``, ``crown``, ``alpha``, ``auto`` or ``lipschitz``.
    """

    method: str = "auto"
    box: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("method of certification", self.method, METHODS)

    @property
    def name(self) -> str:
        return self.method

    def check(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        graph_of(model, shape)

    def prove(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
    ) -> Iterator[Certificate]:
        return proofs(
            model,
            x,
            y,
            norm=threat.norm,
            eps=threat.radius,
            method=self.method,
            box=self.box,
            batch_size=_BATCH,
        )
