"""Where the networks of ``rbl train`` are found by name.

In the package, in folders, and in Hugging Face repositories.

One layout everywhere: ``<data set>-<defense>.safetensors`` with its card, ``<data
set>-<defense>.json``, beside it; networks other than the convolutional one add ``-<network>`` to
their name. Imports no torch.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from robustbench_lite.errors import UsageError, WeightsError

ENVIRONMENT = "RBL_NETWORKS"
"""Sources beside the package, separated by commas: folders, and ``hf:owner/repository`` or
``hf:owner/repository@revision``.
"""
_HUB = "hf:"
_USUAL = "convolutional"


def network_name(dataset: str, defense: str, network: str = _USUAL) -> str:
    """What a network of ``rbl train`` is called, from names without hyper-parameters."""
    return "-".join(
        [dataset, defense] + ([] if network == _USUAL else [network.rpartition(":")[2]])
    )


def network_files() -> dict[str, Path]:
    """Map names to weights, sorted by name.

    The bundled networks come first: no source can put another in their place.
    """
    found: dict[str, Path] = {}
    for folder in [bundled_networks(), *map(_folder, sources())]:
        found = {path.stem: path for path in folder.glob("*.safetensors")} | found
    return dict(sorted(found.items()))


def bundled_networks() -> Path:
    """The folder of the networks that come with the package."""
    return Path(str(files("robustbench_lite") / "data" / "networks"))


def sources() -> list[str]:
    """What ``$RBL_NETWORKS`` names."""
    return [text for part in os.environ.get(ENVIRONMENT, "").split(",") if (text := part.strip())]


def _folder(source: str) -> Path:
    if source.startswith(_HUB):
        return _download(source.removeprefix(_HUB))
    folder = Path(os.path.expanduser(source))
    if not os.path.isdir(folder):
        raise UsageError(
            f"{source} (of --networks or ${ENVIRONMENT}) is no folder; a repository is written "
            "hf:owner/name."
        )
    return folder


@cache
def _download(repository: str) -> Path:
    """Fetch the networks and cards in a Hugging Face repository.

    What is there already is not fetched again.
    """
    name, _, revision = repository.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UsageError(
            f"hf:{repository} needs huggingface_hub: pip install 'robustbench_lite[hub]', or name "
            "a folder."
        ) from error
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=["*.safetensors", "*.json"]
            )
        )
    except (OSError, ValueError) as error:  # of the network, the repository, its name, the disk
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"hf:{repository} cannot be had: {reason}") from error
