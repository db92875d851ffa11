"""The command that measures one cell again, from what its record says."""

from __future__ import annotations

import shlex
from functools import cache

from robustbench_lite.leaderboard.words import spec_for_shell
from robustbench_lite.records.cell import Record
from robustbench_lite.sources.weights import load_card
from robustbench_lite.sources.zoo import bundled_networks, network_name

_BUNDLED_SPLIT = "[:1000]"


def command_of(record: Record) -> str:
    """A line for a shell; names of files that only the reader knows are in capitals."""
    identity = record.identity
    bundled = identity.data.split.endswith(_BUNDLED_SPLIT)
    reference = _bundled_weights(identity.model.name) == identity.model.weights_sha256
    words = ["rbl", "evaluate", "--attack", spec_for_shell(identity.attack), "--norm", identity.threat.norm]
    if identity.threat.eps is not None:
        words += ["--eps", identity.threat.eps_written or repr(identity.threat.eps)]
    if identity.threat.goal != "untargeted":
        words += ["--targeted", identity.threat.goal]
    parts = identity.defense.parts or [identity.defense]
    here = [reference and identity.model.name == network_name(identity.data.name, part.name) for part in parts]
    words += [
        "--defense",
        " + ".join(part.name if own else spec_for_shell(part) for part, own in zip(parts, here, strict=True)),
    ]
    if not reference:
        words += ["--weights", f"{identity.model.name}.safetensors"]
    elif not any(here) and identity.model.name != network_name(identity.data.name, "none"):
        words += ["--model", identity.model.name]
    words += ["--dataset", identity.data.name] + ([] if bundled else ["--data-dir", "DATA"])
    ids = identity.data.id_ranges
    if len(ids) == 1 and ids[0][0] == 0:
        words += ["--limit", str(ids[0][1])]
    words += ["--seed", str(identity.seed)]
    if identity.query_budget is not None:
        words += ["--query-budget", str(identity.query_budget)]
    return shlex.join(words)


@cache
def _bundled_weights(name: str) -> str | None:
    """The weights hash of the network of that name that comes with the package."""
    card = bundled_networks() / f"{name}.json"
    return load_card(card).weights_sha256 if card.exists() else None
