"""``rbl doctor``: does this installation work, and if not, what to do."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from robustbench_lite import registry
from robustbench_lite.errors import CheckFailed, RobustBenchError

if TYPE_CHECKING:
    from robustbench_lite.sources.dataset import Dataset

_PACKAGES = (
    "robustbench_lite",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pydantic",
    "safetensors",
    "foolbox",
    "typer",
)
#: SHA-256 over shape, images and labels of the bundled slices, as Dataset.fingerprint computes it.
_BUNDLED_FINGERPRINTS = {
    ("fashion_mnist", "test"): "2912a8d8fc43eb8cc8496b9ea7891172fe9f27eb5657b874778e1351587887fe",
    ("fashion_mnist", "train"): "f4cfee99b67a56edd52bcb2d8b64c3a9749834276274fb80568a03f7ad09bd93",
    ("mnist", "test"): "e24c34f3baf6eebe9758e497a389a5823d263071d860fc3e075f66ac204e1d06",
    ("mnist", "train"): "23e1139081413af03baafcee839914933f1d0f7f2c6de930f776054ef428f1b3",
}


class Checkup(NamedTuple):
    """One line of the report."""

    name: str
    text: str
    fix: str | None = None
    """What to do; ``None`` when nothing is wrong."""


def doctor(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that evaluations would write to.")
    ] = Path("rbl-results"),
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Warnings and tracebacks.")
    ] = False,
) -> None:
    """Check versions, devices, plug-ins, bundled data and networks, the output folder; run a short
    self test.
    """
    broken = 0
    for check in (
        _versions,
        _devices,
        _plugins,
        _data,
        _networks,
        lambda: _folder(output),
        _self_test,
    ):
        for finding in _guard(check):
            mark = typer.style("ok  ", fg="green")
            if finding.fix is not None:
                mark = typer.style("FAIL", fg="red", bold=True)
            typer.echo(f"{mark} {finding.name:<12} {finding.text}")
            if finding.fix is not None:
                broken += 1
                typer.echo(f"     {'':<12} -> {finding.fix}")
    if broken:
        raise CheckFailed(f"{broken} of the checks above failed; each says what to do.")
    typer.echo("All is well.")


def _guard(check: Callable[[], Iterator[Checkup]]) -> Iterator[Checkup]:
    """Yield the findings of ``check``.

    Whatever it raises is a finding too, so that the other checks still run.
    """
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 -- a doctor reports what is broken instead of breaking with it
        name = getattr(check, "__name__", "").strip("_<>").replace("_", " ")
        yield Checkup(
            name,
            f"{type(error).__name__}: {error}",
            "Reinstall what is named, with pip install --force-reinstall.",
        )


def _versions() -> Iterator[Checkup]:
    yield Checkup(
        "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Checkup(name, "not installed", f"pip install {name}")
    yield Checkup("packages", ", ".join(found))


def _devices() -> Iterator[Checkup]:
    import torch

    gpus: list[str] = []
    if torch.cuda.is_available():
        gpus += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        gpus.append("mps")
    threads = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    yield Checkup("devices", f"{', '.join([*gpus, 'cpu'])}; {threads}")


def _plugins() -> Iterator[Checkup]:
    kinds: tuple[registry.Kind, ...] = ("attack", "suite", "defense")
    for kind in kinds:
        loaded = []
        for name, target in registry.targets(kind).items():
            try:
                registry.load(kind, name)
                loaded.append(name)
            except Exception as error:  # noqa: BLE001 -- a plug-in may raise anything when it is imported
                yield Checkup(
                    kind,
                    f"{name} ({target}) does not load: {error}",
                    "Reinstall or remove its package.",
                )
        yield Checkup(f"{kind}s", ", ".join(loaded) or "none")


def _data() -> Iterator[Checkup]:
    for (name, split), fingerprint in _BUNDLED_FINGERPRINTS.items():
        data = _bundled_images(name, split)
        images = f"{len(data):,} bundled {split} images of {data.name}"
        if data.fingerprint == fingerprint:
            yield Checkup("data", f"{images}, hash agrees")
        else:
            fix = "pip install --force-reinstall --no-deps robustbench_lite."
            yield Checkup(
                "data", f"{images}, hash differs", f"The bundled images were changed: {fix}"
            )


def _bundled_images(name: str, split: str) -> Dataset:
    """The bundled slice itself, even where $RBL_DATA_DIR points to the whole data set."""
    from robustbench_lite.sources.load_data import load_dataset

    return load_dataset(name, split=split, bundled=True)  # type: ignore[arg-type]


def _networks() -> Iterator[Checkup]:
    from robustbench_lite.sources.model_zoo import bundled_networks, network_files
    from robustbench_lite.sources.models import named_network

    fix = "pip install --force-reinstall --no-deps robustbench_lite"
    intact = []
    for name, path in network_files().items():
        try:
            named_network(name)
            intact.append(name)
        except RobustBenchError as error:
            yield Checkup(
                "network",
                f"{name}: {error}",
                fix if path.parent == bundled_networks() else "Train it again.",
            )
    if intact:
        yield Checkup("networks", f"{', '.join(intact)}; hashes agree with their cards")
    else:
        yield Checkup("networks", "no bundled network is installed", fix)


def _folder(output: Path) -> Iterator[Checkup]:
    from robustbench_lite.records.files import require_writable

    try:
        # The nearest folder that exists is tried, so that looking leaves nothing behind.
        existing = next(
            path for path in (output, *output.absolute().parents) if os.path.isdir(path)
        )
        require_writable(existing, 20_000_000)
        yield Checkup("output", f"{output} can be written")
    except RobustBenchError as error:
        yield Checkup("output", str(error), "Name another folder with --output DIR.")


def _self_test() -> Iterator[Checkup]:
    """PGD on 64 bundled images, in a scratch folder: engine, judge, journal and record in one."""
    import robustbench_lite as rbl
    from robustbench_lite.records.cell import read_record

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        images = _bundled_images("fashion_mnist", "test").first(64)
        cell = rbl.evaluate(
            data=images, attacks="pgd steps=10", eps=0.1, output=Path(folder)
        ).cells[0]
        if cell.path is not None:
            read_record(cell.path)
    took = time.perf_counter() - start
    text = (
        f"PGD-10 on 64 images: {cell.clean_accuracy:.0%} clean, {cell.robust_accuracy:.0%} robust, "
        f"judged, {took:.1f} s"
    )
    sane = cell.clean_accuracy > 0.7 and cell.robust_accuracy < cell.clean_accuracy
    yield Checkup(
        "self test",
        text,
        None if sane else "These figures cannot be right: please report them with this output.",
    )
