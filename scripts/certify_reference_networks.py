"""Write what can be proved of the bundled dual networks into their cards.

    python scripts/certify_reference_networks.py --data-dir data

All test images, at the radius of the card. The plain ball, as in published figures, by ``dual``,
the bound of the paper, and by all bounds together (``auto``); of a network that was trained with
the ball cut by [0, 1], that ball and ``auto``. About half an hour on one core; killed, it goes on
where it was. After a training that changes a network, run it again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from pathlib import Path

from robustbench_lite.files.writing import write_text
from robustbench_lite.sources.card import Card, Certified, load_card
from robustbench_lite.sources.model_zoo import bundled_networks


def commands_of(card: Card) -> list[str]:
    """What a reader types to prove it again."""
    cut = "box=True" in card.defense.split()
    return [_command(card, method, cut) for method in (("auto",) if cut else ("dual", "auto"))]


def _command(card: Card, method: str, cut: bool) -> str:
    eps = f"{round(card.eps * 255)}/255" if card.dataset.startswith("cifar10") else f"{card.eps:g}"
    words = ["--model", card.name, "--dataset", card.dataset, "--eps", eps, "--method", method]
    return shlex.join(
        ["rbl", "certify", *words, *([] if cut else ["--no-box"]), "--data-dir", "data"]
    )


def certify_by(command: str, data_dir: Path, output: Path) -> Certified:
    """Run ``command`` with the data where they are.

    A finished certificate in ``output`` is read instead.
    """
    words = [str(data_dir) if word == "data" else word for word in shlex.split(command)]
    done = subprocess.run(
        [*words, "--format", "json", "-q", "--output", str(output)],
        check=True,
        capture_output=True,
        text=True,
    )
    (row,) = json.loads(done.stdout)["certificates"]
    return Certified(
        **{field: row[field] for field in Certified.model_fields if field != "command"},
        command=command,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument(
        "--output", type=Path, default=Path("rbl-results"), help="Where certificates are kept."
    )
    parser.add_argument("--networks", type=Path, default=bundled_networks())
    given = parser.parse_args()
    for path in sorted(given.networks.glob("*-dual_network*.json")):
        card = load_card(path)
        proved = [
            certify_by(command, given.data_dir, given.output) for command in commands_of(card)
        ]
        new = card.model_copy(update={"certified": proved})
        write_text(path, new.model_dump_json(indent=2, exclude_unset=True) + "\n")
        print(path.stem, *(f"{one.method} {one.certified_accuracy:.2%}" for one in proved))


if __name__ == "__main__":
    main()
