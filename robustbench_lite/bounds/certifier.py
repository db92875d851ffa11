"""What proves robustness.

A certifier has a name and a version, as an attack has, and goes into the cell's key like one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from robustbench_lite.bounds.certificate import Certificate
from robustbench_lite.bounds.certify import METHODS, proofs
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.errors import UnknownNameError
from robustbench_lite.threat import ThreatModel

_BATCH = 16
"""Samples a batch: few enough that the dearest method ends one within seconds."""


@dataclass(frozen=True, kw_only=True)
class Certifier(ABC):
    """Base of certifiers, which are frozen, keyword-only dataclasses of parameters.

    A defense may bring one of its own.
    """

    version: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """What records call it."""

    def check(self, model: nn.Module, shape: tuple[int, ...]) -> None:  # noqa: B027 -- nothing to say is the default
        """Refuse a network that it can prove nothing of, on images of ``shape`` (C, H, W).

        Raises:
            UnsupportedLayerError: names the layer that no bound is known for.
        """

    @abstractmethod
    def prove(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
    ) -> Iterator[Certificate]:
        """Bound the margins from below, a few samples after the other.

        No sample's bound depends on the others.

        Args:
            model: the network as deployed, in eval mode.
            x: images (N, C, H, W), on its device.
            y: labels (N,), likewise.
            threat: its eps is a number.

        Raises:
            UnsupportedLayerError: names the layer that no bound is known for.
        """


@dataclass(frozen=True, kw_only=True)
class BoundCertifier(Certifier):
    """Prove with a method of :func:`robustbench_lite.bounds.certify.certify`.

    Args:
        method: ``ibp``, ``crown-ibp``, ``dual``, ``crown``, ``alpha``, ``auto`` or ``lipschitz``.
        box: whether the ball is cut by the image bounds.
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
