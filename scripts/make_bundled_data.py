"""Write the slice of Fashion-MNIST that the package carries: python scripts/make_bundled_data.py --data-dir DIR

The first 1,000 test images, as uint8. Fashion-MNIST is (c) 2017 Zalando SE, under the MIT licence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torchvision

OUTPUT = Path(__file__).parents[1] / "robustbench_lite" / "data" / "fashion_mnist_test_1000.npz"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder that torchvision reads or downloads to")
    source = torchvision.datasets.FashionMNIST(parser.parse_args().data_dir, train=False, download=True)
    np.savez_compressed(OUTPUT, x=source.data[:1000].numpy(), y=source.targets[:1000].numpy())
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size:,} bytes")
