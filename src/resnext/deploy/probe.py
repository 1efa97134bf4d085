"""Try an engine in a child process first, so that one that crashes ends the child and not this process.

Engines have crashed on some processors: with a signal while they compile (openvino#35943), or at the first inference
(openvino#37577). What has run once on this machine is not tried again: its key is kept in the cache folder.
"""

import hashlib
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from resnext.environment import read_cpu_features, read_cpu_name
from resnext.errors import WorkError
from resnext.files import atomic_write
from resnext.speed.cache_folder import get_cache_folder

PROBE_SECONDS = 300  # a child that takes longer hangs
# bytes that the child may allocate: for its programs, for each byte of the file, and for each number of the batch.
# ResNeXt-50 takes half of it; a small file whose operators claim gigabytes is refused.
PROBE_BYTES, BYTES_PER_FILE_BYTE, BYTES_PER_INPUT = 384 << 20, 8, 2048
CHILD = (sys.executable, "-m")


def probe_engine(
    file: Path, engine: str, precision: str, shape: tuple[int, ...], dtype: str, key: str, module: str = __name__
) -> None:
    """Compile a model and run one batch of zeros in a child process, unless ``key`` has run on this machine before.

    Args:
        file: An .onnx or .xml file.
        engine: "onnxruntime" or "openvino".
        precision: fp32, bf16 or int8.
        shape: Shape of the batch.
        dtype: "uint8" or "float32".
        key: What identifies the model, whatever its path.
        module: The module that the child runs; its arguments are those of ``main``.

    Raises:
        WorkError: The child crashed, failed or did not end; in one sentence.
    """
    if is_known(engine, precision, shape, key):
        return
    mark = _find_mark(engine, precision, shape, key)
    command = [*CHILD, module, str(file), engine, precision, "x".join(map(str, shape)), dtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise WorkError(f"{engine} did not run {file.name} within {PROBE_SECONDS} s on this machine") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise WorkError(
            f"{engine} {version(engine)} crashes on this machine ({name}) with {file.name} in {precision}; "
            "it was tried in a process of its own; use another engine or precision"
        )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise WorkError(f"{engine} cannot run {file.name}: {lines[-1][:300] if lines else 'it gave no reason'}")
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(mark) as out:
            out.write(b"")
    except (OSError, WorkError):
        pass  # without a cache folder every start tries again


def is_known(engine: str, precision: str, shape: tuple[int, ...], key: str) -> bool:
    """Return whether a model has run on this machine before."""
    return _find_mark(engine, precision, shape, key).exists()


def describe_file(file: Path) -> str:
    """Return a key that changes when a file is replaced."""
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def _find_mark(engine: str, precision: str, shape: tuple[int, ...], key: str) -> Path:
    machine = f"{read_cpu_name()} {' '.join(read_cpu_features())}"
    text = "\0".join([machine, engine, version(engine), precision, str(shape), key])
    return get_cache_folder() / "probes" / hashlib.sha256(text.encode()).hexdigest()[:32]


def limit_memory(file: Path, inputs: int) -> None:
    """Limit the memory that this process may allocate, where the system can; ``inputs`` is the number of values."""
    if sys.platform != "linux":
        return
    import resource

    size = sum(one.stat().st_size for one in {file, file.with_suffix(".bin")} if one.exists())
    limit = PROBE_BYTES + BYTES_PER_FILE_BYTE * size + BYTES_PER_INPUT * inputs
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main(arguments: Sequence[str]) -> None:
    """Run one batch of zeros. The child process."""
    from resnext.deploy.engines import Engine

    file, engine, precision, shape, dtype = arguments
    sizes = [int(size) for size in shape.split("x")]
    limit_memory(Path(file), math.prod(sizes))
    made: Engine
    if engine == "onnxruntime":
        from resnext.deploy.onnx_engine import OnnxEngine

        made = OnnxEngine(Path(file).read_bytes(), threads=1)
    else:
        from resnext.deploy.openvino_engine import OpenVinoEngine, import_openvino

        made = OpenVinoEngine(import_openvino().Core().read_model(file), precision, 0, 1, 1)
    made(np.zeros(sizes, dtype))


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
