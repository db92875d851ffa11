#!/bin/sh
# Train the networks that the package carries, and put them in place: scripts/train_reference_networks.sh
# Needs Fashion-MNIST, MNIST (add --download to fetch them) and cifar10-jpeg in ./data. Killed, it goes on where it was.
# Hours on two cores, most of them for adversarial training and for the residual networks. Afterwards, what can be proved of the dual
# networks goes into their cards: python scripts/certify_reference_networks.py
set -eu
cd "$(dirname "$0")/.."

rbl train --defense none --dataset fashion_mnist --epochs 8 --learning-rate 2e-3 --data-dir data
rbl train --defense 'adversarial_training eps=0.1' --dataset fashion_mnist --epochs 15 --batch-size 256 --learning-rate 3e-3 \
    --data-dir data
rbl train --defense parseval --dataset fashion_mnist --epochs 12 --learning-rate 6e-3 --data-dir data
rbl train --defense 'dual_network eps=0.1 warmup=0.4 interval_until=0.5 dual_from=0.5 settled=3' --dataset fashion_mnist --epochs 8 \
    --batch-size 100 --learning-rate 3e-3 --data-dir data

rbl train --defense none --dataset mnist --epochs 8 --learning-rate 2e-3 --eps 0.3 --data-dir data
rbl train --defense 'adversarial_training eps=0.3 attack="pgd steps=10" warmup=0.5' --dataset mnist --epochs 15 --batch-size 256 \
    --learning-rate 3e-3 --attack 'pgd steps=100 restarts=10 loss=margin' --eps 0.3 --data-dir data
rbl train --defense parseval --dataset mnist --epochs 12 --learning-rate 6e-3 --eps 0.3 --data-dir data
rbl train --defense 'dual_network eps=0.1 warmup=0.4 interval_until=0.5 dual_from=0.5 settled=4' --dataset mnist --epochs 8 \
    --batch-size 100 --learning-rate 3e-3 --data-dir data
rbl train --defense 'adversarial_training eps=0.1' --dataset mnist --epochs 10 --batch-size 256 --learning-rate 3e-3 \
    --attack 'pgd loss=margin' --eps 0.1 --name mnist-adversarial_training-0.1 --data-dir data
# At 0.3 the bounds of the dual network come out looser than intervals on a network that was brought there by intervals.
rbl train --defense 'dual_network eps=0.3 warmup=0.6 interval_until=1 dual_from=1 clean_weight=0.3 box=true' --dataset mnist \
    --epochs 20 --batch-size 100 --learning-rate 2e-3 --attack 'pgd loss=margin' --eps 0.3 --name mnist-dual_network-0.3 \
    --data-dir data

rbl train --defense none --dataset cifar10-jpeg --eps 8/255 --data-dir data --epochs 12 --learning-rate 2e-3
rbl train --defense parseval --dataset cifar10-jpeg --eps 8/255 --data-dir data --epochs 12 --learning-rate 6e-3
rbl train --defense 'adversarial_training eps=8/255' --dataset cifar10-jpeg --eps 8/255 --data-dir data --epochs 15 \
    --learning-rate 2e-3
rbl train --defense 'dual_network eps=2/255 warmup=0.4 interval_until=0.5 dual_from=0.95 settled=3' --dataset cifar10-jpeg \
    --eps 2/255 --data-dir data --epochs 8 --batch-size 100 --learning-rate 2e-3
rbl train --defense none --dataset cifar10-jpeg --eps 8/255 --data-dir data --network residual --epochs 10 --learning-rate 3e-3
# Kernels that are scaled as in the paper shrink the signal in a network as deep as this one without batch norm.
rbl train --defense 'parseval scaled_patches=false logit_scale=30' --dataset cifar10-jpeg --eps 8/255 --data-dir data \
    --network residual --epochs 10 --learning-rate 3e-3
rbl train --defense 'adversarial_training eps=8/255 attack="pgd steps=2 step_size=5/255"' --dataset cifar10-jpeg --eps 8/255 \
    --data-dir data --network residual --epochs 8 --learning-rate 3e-3

mkdir -p robustbench_lite/data/networks
cp rbl-models/*.safetensors rbl-models/*.json robustbench_lite/data/networks/
