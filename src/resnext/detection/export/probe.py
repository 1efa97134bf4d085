"""Try the engine of an exported detector in a child process first, as ``deploy.probe`` does for classifiers.

``python -m resnext.detection.export.probe FILE ENGINE PRECISION SHAPE DTYPE`` is the child.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnext.deploy.exported import PROBE_SIDE, ExportedModel
from resnext.deploy.probe import describe_file, probe_engine
from resnext.detection.export.engines import build_detector_engine


def probe_detector(exported: ExportedModel, engine: str) -> None:
    """Detect in a black picture in a child process, unless the file has run on this machine before.

    Raises WorkError if the child crashed, failed or did not end; in one sentence.
    """
    shape, key = (1, PROBE_SIDE, PROBE_SIDE, 3), describe_file(exported.path)
    probe_engine(exported.path, engine, exported.info.precision, shape, "uint8", key, __name__)


def main(arguments: Sequence[str]) -> None:
    """Detect in a black picture. The child process."""
    file, engine, _, shape, dtype = arguments
    model: Any = file
    if engine == "onnxruntime":
        model = Path(file).read_bytes()
    picture = np.zeros([int(size) for size in shape.split("x")][1:], dtype)
    build_detector_engine(engine, model)(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
