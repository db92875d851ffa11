"""A subject: a network under a defense, which is what is attacked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustbench_lite import registry
from robustbench_lite.defense.composition import defense_from, trained_part, with_trained_part
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation.names import registered_name, short_label
from robustbench_lite.registry import Trust
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.models import LoadedModel, reference_model


@dataclass(frozen=True)
class Subject:
    """A network under a defense: what is attacked."""

    name: str
    module: nn.Module
    defense: Defense
    label: str
    """The defense as the user wrote it."""


def subject_from(
    value: str | Defense,
    model: nn.Module | None,
    name: str | None,
    data: Dataset,
    trust: Trust = Trust.REGISTERED,
) -> Subject:
    """Put a defense around ``model``, or around the bundled network that was trained with it.

    Args:
        value: the defense, as a spec such as ``"parseval"`` or as an object.
        model: the network; None for the bundled one of the images and the defense.
        name: what the network is called; None for its own name.
        data: the images that it is for.
        trust: what the spec may lead to.

    Raises:
        UsageError: there is no such defense or network, or the bundled one was trained otherwise.
    """
    defense = defense_from(value, trust) if isinstance(value, str) else value
    if not isinstance(defense, Defense):
        raise UsageError(
            f"{value!r} is no defense: give a spec such as 'parseval' or a Defense object."
        )
    if model is not None:
        label = short_label("defense", defense)
        return Subject(name or type(model).__name__, model, defense, label)
    wanted = trained_part(defense)
    trained = "none" if wanted is None else registered_name("defense", wanted)
    reference = reference_model(data.name, trained, trust=trust)
    if wanted is not None:
        defense = with_trained_part(defense, _trained_with(reference, wanted, data, trust))
    label = short_label("defense", defense)
    return Subject(name or reference.name, reference.module, defense, label)


def _trained_with(reference: LoadedModel, wanted: Defense, data: Dataset, trust: Trust) -> Defense:
    """The defense on the card of ``reference``, if it is ``wanted``, or ``wanted`` has defaults."""
    if reference.card is None:
        return wanted
    found: Defense = registry.create("defense", reference.card.defense, trust.in_files)
    if wanted in (found, type(wanted)()):
        return found
    label = short_label("defense", wanted)
    raise UsageError(
        f"The bundled {reference.name} was trained with {short_label('defense', found)!r}, not "
        f"with {label!r}: leave the hyper-parameters out, or train your own with "
        f"`rbl train --defense '{label}' --dataset {data.name}`."
    )
