"""Measure what int8 costs in accuracy: train small networks, export them to int8, and write down what the gate found.

    python tools/measure_int8.py --cifar10 cifar10-jpeg.tar.xz --work /tmp/int8 --out results/int8.csv

Fashion-MNIST comes from Debian's package dataset-fashion-mnist, CIFAR-10 as JPEG files from the archive of
``--cifar10``. Each network is trained on 8,000 images for three epochs (minutes, on two cores) and judged on all 10,000
test images. Runs that are already in ``--work`` are used again.
"""

import argparse
import csv
import datetime
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

import resnext
from resnext.commands.export_int8 import load_judged_images
from resnext.data.sources.fashion_mnist import DEBIAN_FOLDER
from resnext.deploy.example_images import load_example_images
from resnext.deploy.export import ExportRequest, export_classifier
from resnext.deploy.export_info import FORMATS
from resnext.deploy.int8 import load_calibration_images
from resnext.deploy.int8_export import CONFIDENCE, AccuracyError, Int8Plan
from resnext.evaluation.outputs import get_preprocessing
from resnext.speed.isa import describe_isa

NETWORK = "--model.blocks 1,1,1 --model.stage_widths 16,32,64 --model.stage_channels 16,64,128".split()
TRAINING = "--data.max_train_images 8000 --train.epochs 3 --train.precision fp32".split()
COLUMNS = (
    "data", "n", "network", "target", "attempt", "step", "top1_fp32", "top1_int8", "only_fp32", "only_int8", "loss",
    "bound", "confidence", "max_loss", "verdict", "int8_layers", "layers", "calibration_images", "cpu", "date",
    "resnext", "openvino", "onnxruntime", "nncf", "command",
)  # fmt: skip
