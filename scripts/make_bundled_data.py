"""Write the slices of Fashion-MNIST that the package carries: python scripts/make_bundled_data.py --data-dir DIR

The first 1,000 images of the test and of the training split, as uint8. Fashion-MNIST is (c) 2017 Zalando SE, under the MIT
licence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torchvision

OUTPUT = Path(__file__).parents[1] / "robustbench_lite" / "data"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder that torchvision reads or downloads to")
    folder = parser.parse_args().data_dir
    for split in ("test", "train"):
        source = torchvision.datasets.FashionMNIST(folder, train=split == "train", download=True)
        path = OUTPUT / f"fashion_mnist_{split}_1000.npz"
        np.savez_compressed(path, x=source.data[:1000].numpy(), y=source.targets[:1000].numpy())
        print(f"{path.name}: {path.stat().st_size:,} bytes")
