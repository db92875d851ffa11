"""Write the slices that the package carries: python scripts/make_bundled_data.py --data-dir DIR

The first 1,000 images of the test and of the training split of Fashion-MNIST, (c) 2017 Zalando SE,
under the MIT licence, and of MNIST, (c) Yann LeCun and Corinna Cortes, under CC BY-SA 3.0; as
uint8.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torchvision

OUTPUT = Path(__file__).parents[1] / "robustbench_lite" / "data"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-dir", required=True, help="folder that torchvision reads or downloads to"
    )
    folder = parser.parse_args().data_dir
    for name, kind in {
        "fashion_mnist": torchvision.datasets.FashionMNIST,
        "mnist": torchvision.datasets.MNIST,
    }.items():
        for split in ("test", "train"):
            source = kind(folder, train=split == "train", download=True)
            path = OUTPUT / f"{name}_{split}_1000.npz"
            np.savez_compressed(path, x=source.data[:1000].numpy(), y=source.targets[:1000].numpy())
            print(f"{path.name}: {path.stat().st_size:,} bytes")
