"""The command that measures one cell again, from what its record says."""

from __future__ import annotations

import shlex
from functools import cache

from robustbench_lite.leaderboard.words import spec_for_shell
from robustbench_lite.records.cell import Record
from robustbench_lite.records.identity import DataId, Identity, ThreatId
from robustbench_lite.sources.card import load_card
from robustbench_lite.sources.model_zoo import bundled_networks, network_name

_BUNDLED_SPLIT = "[:1000]"


def command_of(record: Record) -> str:
    """A line for a shell; names of files that only the reader knows are in capitals."""
    identity = record.identity
    words = ["rbl", "evaluate", "--attack", spec_for_shell(identity.attack)]
    words += [*_threat(identity.threat), *_network(identity), *_samples(identity.data)]
    words += ["--seed", str(identity.seed)]
    if identity.query_budget is not None:
        words += ["--query-budget", str(identity.query_budget)]
    return shlex.join(words)


def _threat(threat: ThreatId) -> list[str]:
    words = ["--norm", threat.norm]
    if threat.eps is not None:
        words += ["--eps", threat.eps_written or repr(threat.eps)]
    if threat.goal != "untargeted":
        words += ["--targeted", threat.goal]
    return words


def _network(identity: Identity) -> list[str]:
    """Defense and network; of a bundled network, hyper-parameters of its training are known."""
    name = identity.model.name
    data = identity.data.name
    bundled = _bundled_weights(name) == identity.model.weights_sha256
    specs = []
    trained = False
    for part in identity.defense.parts or [identity.defense]:
        own = bundled and name == network_name(data, part.name)
        specs.append(part.name if own else spec_for_shell(part))
        trained |= own
    words = ["--defense", " + ".join(specs)]
    if not bundled:
        words += ["--weights", f"{name}.safetensors"]
    elif not trained and name != network_name(data, "none"):
        words += ["--model", name]
    return words


def _samples(data: DataId) -> list[str]:
    words = ["--dataset", data.name]
    if not data.split.endswith(_BUNDLED_SPLIT):
        words += ["--data-dir", "DATA"]
    ids = data.id_ranges
    if len(ids) == 1 and ids[0][0] == 0:
        words += ["--limit", str(ids[0][1])]
    return words


@cache
def _bundled_weights(name: str) -> str | None:
    """The weights hash of the network of that name that comes with the package."""
    card = bundled_networks() / f"{name}.json"
    return load_card(card).weights_sha256 if card.exists() else None
