#!/bin/sh
# Train the networks that the package carries, and put them in place: scripts/train_reference_networks.sh
# Needs Fashion-MNIST in ./data (add --download to fetch it). About 20 minutes on two cores, most of it for the second.
set -eu
cd "$(dirname "$0")/.."

rbl train --defense none --dataset fashion_mnist --epochs 8 --learning-rate 2e-3 --data-dir data
rbl train --defense 'adversarial_training eps=0.1' --dataset fashion_mnist --epochs 15 --batch-size 256 --learning-rate 3e-3 \
    --data-dir data
rbl train --defense parseval --dataset fashion_mnist --epochs 12 --learning-rate 6e-3 --data-dir data

mkdir -p robustbench_lite/data/networks
for defense in none adversarial_training parseval; do
    cp "rbl-models/fashion_mnist-$defense.safetensors" "rbl-models/fashion_mnist-$defense.json" robustbench_lite/data/networks/
done
