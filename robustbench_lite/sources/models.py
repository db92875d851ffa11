"""Networks to evaluate: the bundled ones, those that ``rbl train`` wrote, and a user's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.errors import ModelError, UnknownNameError, UsageError, WeightsError
from robustbench_lite.files.numerals import parse_whole
from robustbench_lite.files.reading import CARD_BYTES, Form, explain, require_file
from robustbench_lite.files.writing import write_text
from robustbench_lite.registry import Spec, Trust, call_with_text, import_object
from robustbench_lite.sources.card import Card, load_card
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.model_zoo import network_files, network_name
from robustbench_lite.sources.networks import NETWORKS
from robustbench_lite.sources.weights import (
    WEIGHTS,
    fitting_weights,
    load_weights,
    save_weights,
    weights_hash,
)

_CODE = Form(
    noun="file",
    what="no Python file that runs to its end",
    most=CARD_BYTES,
    error=ModelError,
    fix="--model takes file.py:factory or package.module:factory.",
)


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode, (B, C, H, W) in [0, 1] -> logits (B, K)."""

    module: nn.Module
    name: str
    card: Card | None = None
    """How it was trained, for networks that ``rbl train`` wrote."""


def reference_model(
    dataset: str, defense: str, network: str = "convolutional", trust: Trust = Trust.REGISTERED
) -> LoadedModel:
    """Load the network that was trained on ``dataset`` with ``defense`` (names alone).

    See ``sources.model_zoo``.

    Raises:
        UsageError: there is none; says how to train one.
        WeightsError: the file is not the one its card was written for.
    """
    name = network_name(dataset, defense, network)
    known = network_files()
    if name not in known:
        raise UsageError(
            f"No network at hand was trained on {dataset} with {defense}: there are "
            f"{', '.join(known)}. Train one with `rbl train --defense {defense} --dataset "
            f"{dataset}`, and name its folder with --networks."
        )
    return trained_model(known[name], trust)


def named_network(name: str, trust: Trust = Trust.REGISTERED) -> LoadedModel:
    """The network of ``network_files()`` that is called ``name``."""
    known = network_files()
    if name not in known:
        raise UnknownNameError("network", name, known)
    return replace(trained_model(known[name], trust), name=name)


def trained_model(path: str | Path, trust: Trust = Trust.REGISTERED) -> LoadedModel:
    """Load a network that ``rbl train`` wrote, and check it against the card beside ``path``.

    A card is a file: what it names as its network, and has not come with this package, is code that
    needs ``Trust.ANY``, whoever named the card.
    """
    path = Path(path)
    require_file(path, WEIGHTS)
    card = load_card(path.with_suffix(".json"))
    module = _fill(Spec(card.network, card.network_params), path, trust.in_files)
    if weights_hash(module) != card.weights_sha256:
        raise WeightsError(
            f"The weights in {path} are not those of its card: their hash is "
            f"{weights_hash(module)[:16]}..., the card says {card.weights_sha256[:16]}.... Restore "
            "both from one training."
        )
    return LoadedModel(module, card.name, card)


def load_model(
    text: str, weights: str | Path | None = None, trust: Trust = Trust.REGISTERED
) -> LoadedModel:
    """A user's own network.

    Args:
        text: ``package.module:factory key=value ...``, ``file.py:factory ...`` (as far as ``trust``
            goes), a built-in network such as ``convolutional channels=3 size=32``, or the name of a
            trained one, such as ``fashion_mnist-parseval``.
        weights: safetensors, or a state dict of ``torch.save``; without it the factory's own
            weights stay.
    """
    spec = Spec.parse(text)
    if weights is None and not spec.params and spec.name in network_files():
        return named_network(spec.name, trust)
    if spec.name in NETWORKS and weights is None:
        raise UsageError(
            f"The network {spec.name!r} comes without weights: name a file with --weights."
        )
    module = build(spec, trust) if weights is None else _fill(spec, weights, trust)
    name = text if weights is None else f"{text} ({Path(weights).name})"
    return LoadedModel(module, name)


def _fill(spec: Spec, weights: str | Path, trust: Trust) -> nn.Module:
    """Build the network of ``spec`` with the weights of a file."""
    if spec.name in NETWORKS:
        # Sizes may come from a file: compared with the weights before memory is taken for them.
        with torch.device("meta"):
            blank = build(spec, trust)
        fitting_weights(blank, weights)
    module = build(spec, trust)
    load_weights(module, weights)
    return module


def build(spec: Spec, trust: Trust = Trust.REGISTERED) -> nn.Module:
    """Call the factory that ``spec`` names, and put the module into eval mode.

    torch's global generator is left where it was.
    """
    with torch.random.fork_rng(devices=[]):
        found = _factory(spec.name, trust)
        if not callable(found):
            raise ModelError(
                f"{spec.name} is no factory, but a {type(found).__name__}; name a function that "
                "builds the model."
            )
        module = found
        if not isinstance(found, nn.Module):
            module = call_with_text(found, spec.params, f"network {spec.name!r}", trust)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{spec.name} gave a {type(module).__name__}; a torch.nn.Module is needed."
        )
    return module.eval()


def network_spec(spec: Spec, data: Dataset) -> Spec:
    """Fill in what a built-in network was not given: channels, size and classes of the data."""
    if spec.name not in NETWORKS:
        return spec
    channels, height, width = data.x.shape[1:]
    if height != width:
        raise UsageError(f"{spec.name} takes square images, not {height} x {width}: use --model.")
    classes = data.classes or max(2, int(data.y.max()) + 1)
    return Spec(
        spec.name,
        {"channels": channels, "size": height, "classes": classes, **_numbers(spec.params)},
    )


def save_trained(module: nn.Module, card: Card, folder: Path) -> Path:
    """Write ``<name>.safetensors`` and ``<name>.json`` to ``folder``.

    Returns the path of the weights.
    """
    path = save_uncarded(module, card.name, folder)
    write_text(path.with_suffix(".json"), card.model_dump_json(indent=2, exclude_none=True) + "\n")
    return path


def save_uncarded(module: nn.Module, name: str, folder: Path) -> Path:
    """Write ``<name>.safetensors``, for which there is no card yet, to ``folder``.

    A card of other weights is deleted first.
    """
    path = folder / f"{name}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _card_hash(path.with_suffix(".json")) != weights_hash(module):
            path.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to: {error.strerror}. Choose another --output."
        ) from error
    save_weights(module, path)
    return path


def _card_hash(path: Path) -> str | None:
    """The hash of the weights that the card at ``path`` is of.

    None without a card that can be read.
    """
    try:
        return load_card(path).weights_sha256
    except WeightsError:
        return None


def _factory(name: str, trust: Trust) -> Callable[..., Any]:
    """Find the factory of that name, as far as ``trust`` goes."""
    if name in NETWORKS:
        return NETWORKS[name]
    module_name, colon, attribute = name.rpartition(":")
    if not colon:
        known = [*network_files(), *NETWORKS, "package.module:factory"]
        raise UnknownNameError("network", name, known)
    if not module_name.endswith(".py"):
        return import_object(name, "network", trust)  # type: ignore[no-any-return]
    trust.require(Trust.ANY, "network", name)
    return _from_file(Path(module_name), attribute)


def _from_file(path: Path, attribute: str) -> Callable[..., Any]:
    """Run a Python file, and take the factory out of it."""
    require_file(path, _CODE)
    # Registered, so that what looks modules up by name (dataclasses, typing) finds the classes of
    # the file.
    name = f"_rbl_model_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise UsageError(f"{path} cannot be read as Python code.")
    code = sys.modules[name] = importlib.util.module_from_spec(found)
    with explain(str(path), _CODE):
        found.loader.exec_module(code)
    if not hasattr(code, attribute):
        public = [key for key in vars(code) if not key.startswith("_")]
        raise UnknownNameError(f"factory in {path}", attribute, public)
    return getattr(code, attribute)  # type: ignore[no-any-return]


def _numbers(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if (number := parse_whole(value)) is None else number
        for key, value in params.items()
    }
