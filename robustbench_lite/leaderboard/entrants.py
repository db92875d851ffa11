"""The rows of a board.

That is what each network and defense is known by, and the network itself when it is to be measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from robustbench_lite.defense.composition import defense_from, trained_part, with_trained_part
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation.identity import model_id, plugin_id
from robustbench_lite.evaluation.names import registered_name, short_label
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.files.reading import below
from robustbench_lite.leaderboard.board import Board, Entrant
from robustbench_lite.records.identity import ModelId, PluginId
from robustbench_lite.registry import Trust
from robustbench_lite.sources.card import Card, load_card
from robustbench_lite.sources.model_zoo import network_files, network_name
from robustbench_lite.sources.models import load_model, named_network, trained_model
from robustbench_lite.sources.weights import weights_file_hash

_PATHS = "Copy the file into the leaderboards folder, and name it as it lies there."


class Named(NamedTuple):
    """What a record must say of a row; an empty hash is not known."""

    model: ModelId
    defense: PluginId
    missing: str = ""
    """Why the network cannot be had, if so."""


def identify(entrant: Entrant, board: Board, root: Path, trust: Trust = Trust.REGISTERED) -> Named:
    """What ``entrant`` is known by. Runs no network that it names."""
    if entrant.weights is not None:
        path = _weights(entrant, root)
        if not os.path.exists(path):
            return _unknown(
                entrant, path.stem, trust, f"its weights, {entrant.weights}, are not there"
            )
        card = load_card(path.with_suffix(".json")) if entrant.model is None else None
        defense = _choose_defense(entrant, card, trust)
        model = ModelId(
            name=_name(entrant, card.name if card else None),
            weights_sha256=weights_file_hash(path),
            architecture_sha256="",
        )
        return Named(model, plugin_id("defense", defense))
    if entrant.model is not None and ":" in entrant.model:
        return _unknown(entrant, None, trust)
    name = entrant.model or _bundled_name(entrant, board, trust)
    if name not in network_files():
        return _unknown(entrant, name, trust, f"no network {name} is at hand")
    subject = subject_of(entrant, board, root, trust)
    return Named(model_id(subject, entrant.outputs), plugin_id("defense", subject.defense))


def subject_of(
    entrant: Entrant, board: Board, root: Path, trust: Trust = Trust.REGISTERED
) -> Subject:
    """Load the network of ``entrant``, and put it behind its defense.

    Code that it names is run only with ``trust`` for it.
    """
    if is_bundled(entrant):
        network = named_network(entrant.model or _bundled_name(entrant, board, trust), trust)
    elif entrant.model is not None:
        where, colon, factory = entrant.model.partition(":")
        own = entrant.model
        if colon and where.endswith(".py"):
            own = f"{below(root, where, 'A model', _PATHS)}:{factory}"
        weights = None if entrant.weights is None else _weights(entrant, root)
        network = load_model(own, weights, trust)
    else:
        network = trained_model(_weights(entrant, root), trust)
    defense = _choose_defense(entrant, network.card, trust)
    return Subject(
        _name(entrant, network.name), network.module, defense, short_label("defense", defense)
    )


def _weights(entrant: Entrant, root: Path) -> Path:
    """Where the weights of ``entrant`` are; its card beside them may not lead elsewhere either."""
    path = below(root, str(entrant.weights), "The weights of a row", _PATHS)
    if path.name:
        below(root, str(path.with_suffix(".json").relative_to(root)), "The card of a row", _PATHS)
    return path


def is_bundled(entrant: Entrant) -> bool:
    """The network comes with the package."""
    return entrant.weights is None and (entrant.model is None or entrant.model in network_files())


def _unknown(entrant: Entrant, name: str | None, trust: Trust, missing: str = "") -> Named:
    """A row whose weights nobody knows yet."""
    defense = defense_from(entrant.defense or "none", trust)
    model = ModelId(name=_name(entrant, name), weights_sha256="", architecture_sha256="")
    return Named(model, plugin_id("defense", defense), missing)


def _bundled_name(entrant: Entrant, board: Board, trust: Trust) -> str:
    """Name the bundled network that was trained with the defense.

    Of a composition it is the part that acts in training which counts.
    """
    wanted = trained_part(defense_from(entrant.defense or "none", trust))
    return network_name(
        board.data.name, "none" if wanted is None else registered_name("defense", wanted)
    )


def _choose_defense(entrant: Entrant, card: Card | None, trust: Trust) -> Defense:
    """Make the defense of the row.

    What acts in training has the hyper-parameters of the training where the row gives none.
    """
    if entrant.defense is None:
        return defense_from("none" if card is None else card.defense, trust)
    defense = defense_from(entrant.defense, trust)
    wanted = trained_part(defense)
    if card is None or wanted is None or wanted != type(wanted)():
        return defense
    trained = defense_from(card.defense, trust)
    return with_trained_part(defense, trained) if isinstance(trained, type(wanted)) else defense


def _name(entrant: Entrant, known: str | None) -> str:
    name = entrant.name or known
    if name is None:
        raise UsageError(
            f'The row with the model {entrant.model!r} needs a name: add name = "..." to it.'
        )
    return name
