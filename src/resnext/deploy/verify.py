"""Verify an exported file: a child process that knows only the file computes logits; PyTorch's own are the reference.

``python -m resnext.deploy.verify FILE IMAGES.npz OUT.npz`` is the child. It must not import torch.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from resnext.deploy.engines import TOLERANCE, Outputs, compute_relative_error
from resnext.errors import RequestError, WorkError

if TYPE_CHECKING:
    from torch import Tensor

    from resnext.model.network import Network

BATCHES = (1, 3, 7)  # numbers of images in the batches of the child, in turn
CHILD_SECONDS = 1800  # a child that takes longer hangs
FP32_RELATIVE_ERROR = 1e-5  # what a file in fp32 may differ from PyTorch whatever the network
ROUNDING = 10  # times PyTorch's own rounding: what it may differ for a network that amplifies rounding
PICTURE_AGREEMENT = 0.995  # share of equal predictions where the file resizes by itself
TIE = 1e-4  # predictions may differ where the two best logits differ by less than this share of the largest


@dataclass(frozen=True)
class Agreement:
    """How the logits of an exported file compare with PyTorch's."""

    images: int
    batches: tuple[int, ...]  # numbers of images in a batch that were tried
    max_difference: float  # of a logit
    relative_error: float  # of all logits, as ``engines.compute_relative_error``
    same_top1: int  # images with the same prediction; ties count as the same
    seconds: float  # of the child's computing
    cam_correlation: float | None = None  # of the predicted class's map with PyTorch's, mean over the images
    rounding: float = 0.0  # relative error of PyTorch's fp32 beside its fp64; measured where the file's is large

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"batches": list(self.batches)}

    def check(self, given: str, precision: str) -> None:
        """Raise WorkError if the file does not give the network's results."""
        most = TOLERANCE["int8"] if precision == "int8" else max(FP32_RELATIVE_ERROR, ROUNDING * self.rounding)
        least = 0.0 if precision == "int8" else PICTURE_AGREEMENT if given == "picture" else 1.0
        if given == "picture" and precision != "int8":
            most = TOLERANCE["bf16"]
        if not self.relative_error <= most:
            raise WorkError(
                f"the exported file disagrees with the network: the relative error of its logits is "
                f"{self.relative_error:.2g}, above {most:g}; nothing was written"
            )
        if self.same_top1 < least * self.images:
            raise WorkError(
                f"the exported file disagrees with the network: it predicts {self.images - self.same_top1} of "
                f"{self.images} images differently; nothing was written"
            )


def compare_with_network(
    network: "Network", file: Path, images: Sequence[Image.Image], is_exact: bool = True
) -> Agreement:
    """Compare an exported file, run in a child process, with the network in PyTorch in fp32.

    ``is_exact``: the file gets the network's own pixels and computes in fp32, so that only rounding may differ.

    Raises RequestError without images, WorkError if the child fails.
    """
    if not images:
        raise RequestError("an export is verified with real images; give --images DIR")
    found = run_child(__name__, file, images)
    reference = compute_reference(network, images)
    agreement = measure_agreement(found["logits"], reference, float(found["seconds"]))
    if is_exact and agreement.relative_error > FP32_RELATIVE_ERROR:
        agreement = replace(agreement, rounding=measure_rounding(network, images, reference))
    if "cam" not in found:
        return agreement
    best = reference.argmax(axis=1)
    correlation = correlate_maps(_pick(found["cam"], best), _pick(compute_reference_cam(network, images), best))
    return replace(agreement, cam_correlation=correlation)


def _pick(cam: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.asarray(cam[np.arange(len(cam)), classes])


def correlate_maps(maps: np.ndarray, reference: np.ndarray) -> float | None:
    """Return Pearson's correlation of the pixels of two maps [N, h, w], mean over N; None where all are constant."""
    x, y = (one.reshape(len(one), -1).astype(np.float64) for one in (maps, reference))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    varies = (y**2).sum(axis=1) > 0
    if not varies.any():
        return None
    found = np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=scale > 0)
    return float(found[varies].mean())


def measure_agreement(logits: np.ndarray, reference: np.ndarray, seconds: float = 0.0) -> Agreement:
    """Compare logits [N, K] with those of PyTorch."""
    if logits.shape != reference.shape:
        raise WorkError(f"the exported file gives logits {list(logits.shape)}, the network {list(reference.shape)}")
    top = np.sort(reference, axis=1)[:, ::-1]
    ties = top[:, 0] - top[:, min(1, top.shape[1] - 1)] <= TIE * np.abs(reference).max(axis=1)
    same = (logits.argmax(axis=1) == reference.argmax(axis=1)) | ties
    finite = np.isfinite(logits).all()
    return Agreement(
        images=len(logits),
        batches=tuple(size for size in BATCHES if size <= len(logits)),
        max_difference=float(np.abs(logits - reference).max()) if finite else float("nan"),
        relative_error=compute_relative_error(logits, reference),
        same_top1=int(same.sum()),
        seconds=seconds,
    )


def compute_reference(network: "Network", images: Sequence[Image.Image]) -> np.ndarray:
    """Compute the logits [N, K] of the network itself, in fp32, by the path of evaluation."""
    return np.concatenate([network(inputs).float().numpy() for inputs in _iterate_inputs(network, images)])


def measure_rounding(network: "Network", images: Sequence[Image.Image], reference: np.ndarray) -> float:
    """Return the relative error of logits in fp32, ``reference`` [N, K], beside the same network in fp64."""
    exact = deepcopy(network).double()
    logits = [exact(inputs.double()).numpy() for inputs in _iterate_inputs(exact, images)]
    return compute_relative_error(reference, np.concatenate(logits))


def compute_reference_cam(network: "Network", images: Sequence[Image.Image]) -> np.ndarray:
    """Compute the class activation maps [N, K, h, w] of the network itself, in fp32."""
    from resnext.evaluation.network_outputs import compute_network_cam

    return np.concatenate([compute_network_cam(network, inputs)[1] for inputs in _iterate_inputs(network, images)])


def _iterate_inputs(network: "Network", images: Sequence[Image.Image]) -> "Iterator[Tensor]":
    """Yield normalised batches, with the network in eval mode and without gradients meanwhile."""
    import torch

    from resnext.data.normalization import normalize
    from resnext.data.transforms.pipeline import build_eval_transform
    from resnext.evaluation.ensemble import eval_mode
    from resnext.evaluation.outputs import get_preprocessing

    preprocessing = get_preprocessing(network)
    view = build_eval_transform(preprocessing)
    with eval_mode(network), torch.inference_mode():
        for start in range(0, len(images), 16):
            pixels = torch.stack([view(image) for image in images[start : start + 16]])
            yield normalize(pixels, preprocessing, "cpu")


def run_child(module: str, file: Path, images: Sequence[Image.Image | np.ndarray]) -> dict[str, np.ndarray]:
    """Run ``python -m module FILE IMAGES.npz OUT.npz``; return what it wrote. Raises WorkError with its last words."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "images.npz", Path(folder) / "outputs.npz"
        np.savez(given, *[np.asarray(image) for image in images])
        command = [sys.executable, "-m", module, str(file), str(given), str(found)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorkError(f"running the exported file did not end within {CHILD_SECONDS} s") from None
        if done.returncode != 0:
            raise WorkError(describe_child_failure(done))
        with np.load(found) as arrays:
            return dict(arrays)


def describe_child_failure(done: "subprocess.CompletedProcess[str]") -> str:
    """Describe in one sentence how a child process that ran an exported file ended."""
    if done.returncode < 0:
        import signal

        name = signal.Signals(-done.returncode).name
        return f"the engine crashed with {name} while it ran the exported file; use another --engine or format"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"the exported file does not run: {lines[-1].removeprefix('resnext: ') if lines else 'no message'}"


def main(arguments: Sequence[str]) -> None:
    """Compute the outputs of the images in batches of varying size. The child process."""
    import time

    from resnext.deploy.exported import open_exported
    from resnext.deploy.predictor import Predictor

    file, given, out = map(Path, arguments)
    exported = replace(open_exported(file), is_isolated=True)
    with Predictor(exported) as predictor, np.load(given) as arrays:
        images = [predictor.prepare(arrays[name]) for name in arrays.files]
        sizes = [exported.info.batch] if exported.info.batch is not None else list(BATCHES)
        rows: list[Outputs] = []
        start, turn, began = 0, 0, time.perf_counter()
        while start < len(images):
            size = sizes[turn % len(sizes)]
            batch = images[start : start + size]
            missing = 0 if exported.info.batch is None else size - len(batch)  # a fixed batch is filled up
            rows.append(predictor.infer_all([*batch, *batch[:1] * missing]))
            start, turn = start + size, turn + 1
        seconds = time.perf_counter() - began
    if "torch" in sys.modules and file.suffix != ".pt2":
        raise WorkError("the exported file needed torch")
    maps = [row.cam for row in rows if row.cam is not None]
    logits = np.concatenate([row.logits for row in rows])
    found: dict[str, Any] = {"logits": logits[: len(images)], "seconds": np.float64(seconds)}
    if maps:
        found["cam"] = np.concatenate(maps)[: len(images)]
    np.savez(out, **found)


def run_as_child(work: Callable[[Sequence[str]], None]) -> None:
    """Run the work of a child process; an error is one sentence on standard error, and status 1."""
    try:
        work(sys.argv[1:])
    except (RequestError, WorkError) as error:
        print(f"resnext: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_as_child(main)
