"""What the tests of several commands share."""

import argparse
from pathlib import Path
from types import ModuleType

import pytest

from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.digits import open_digits
from resnext.model.network import Network, create_model
from resnext.settings import DataSettings
from resnext.weights.native import save


def run_command(command: ModuleType, *words: str) -> int:
    """Run a module of ``resnext.commands`` so that its errors are raised."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(words)))


def digits_network() -> Network:
    """A small network for the digits, with random weights."""
    model = create_model("resnext11_2x4d", seed=0, base_channels=4, num_classes=10, in_channels=1)
    source = open_digits(DataSettings())
    model.preprocessing, model.classes = Preprocessing.from_settings(DataSettings(), source), source.train.classes
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights file of ``digits_network``."""
    path = tmp_path / "digits.safetensors"
    save(digits_network(), path)
    return path
