"""Several defenses in one: ``adversarial_training+feature_squeezing``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.defense.protocol import Defense, TrainingBatch
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel, Traits, takes_rng


@dataclass(frozen=True, kw_only=True)
class Composition(Defense):
    """Several defenses, each before what the parts to its left make of the network.

    One of them at most acts in training.
    """

    name: ClassVar[str] = "composition"

    parts: tuple[Defense, ...]

    def __post_init__(self) -> None:
        trained = [part.name for part in self.parts if part.trains]
        if len(trained) > 1:
            raise UsageError(
                f"{' and '.join(trained)} act in training, and a network comes from one training: "
                "keep one of them."
            )

    def prepare(self, model: nn.Module) -> None:
        if (trained := trained_part(self)) is not None:
            trained.prepare(model)

    def loss(self, model: nn.Module, batch: TrainingBatch) -> Tensor:
        trained = trained_part(self)
        return super().loss(model, batch) if trained is None else trained.loss(model, batch)

    def after_step(self, model: nn.Module) -> None:
        if (trained := trained_part(self)) is not None:
            trained.after_step(model)

    @property
    def calibrates(self) -> bool:
        return any(part.calibrates for part in self.parts)

    def calibrated(self, model: nn.Module, images: Tensor) -> Composition:
        parts: list[Defense] = []
        for part in self.parts:
            parts.append(part.calibrated(model, images) if part.calibrates else part)
            model = parts[-1].wrap(model).module
        return replace(self, parts=tuple(parts))

    def wrap(self, model: nn.Module) -> DefendedModel:
        deployed = model
        traits = Traits()
        exact = True
        # what an attack takes gradients of: each part's stand-in, around the stand-ins before it
        followed = model
        for part in self.parts:
            outer = part.wrap(deployed)
            stand_in = part.wrap(followed)
            if traits.abstains and outer.traits.abstains:
                raise UsageError(
                    "Two parts of a defense that both abstain cannot be composed: keep one of them."
                )
            if takes_rng(deployed) and not takes_rng(outer.module):
                raise UsageError(
                    f"{part.name} does not hand on random numbers to what stands behind it: name "
                    "it before the random part, or derive its module from "
                    "robustbench_lite.model.defended.Wrapper."
                )
            deployed = outer.module
            followed = stand_in.traits.surrogate or stand_in.module
            exact = exact and outer.traits.surrogate is None
            traits = Traits(
                random=traits.random or outer.traits.random,
                draws=max(traits.draws, outer.traits.draws),
                votes=max(traits.votes, outer.traits.votes),
                abstains=traits.abstains or outer.traits.abstains,
            )
        return DefendedModel(deployed, replace(traits, surrogate=None if exact else followed))


def defense_from(text: str, trust: registry.Trust = registry.Trust.REGISTERED) -> Defense:
    """Build a defense from its spec, or from several joined by ``+``.

    Hyper-parameters stand behind the part that they are of.

    ``adversarial_training+feature_squeezing bits=3``, ``adversarial_training eps=0.3 +
    feature_squeezing bits=3``.
    """
    parts = [registry.create("defense", spec, trust) for spec in registry.split("defense", text)]
    return parts[0] if len(parts) == 1 else Composition(parts=tuple(parts))


def parts_of(defense: Defense) -> tuple[Defense, ...]:
    """The parts of a composition; any other defense alone."""
    return defense.parts if isinstance(defense, Composition) else (defense,)


def trained_part(defense: Defense) -> Defense | None:
    """The part that the network was trained with; ``None`` where plain training will do."""
    return next((part for part in parts_of(defense) if part.trains), None)


def with_trained_part(defense: Defense, trained: Defense) -> Defense:
    """``defense`` with ``trained`` for the part that acts in training."""
    parts = tuple(trained if part.trains else part for part in parts_of(defense))
    return parts[0] if len(parts) == 1 else Composition(parts=parts)
