"""Judge an exported file on labelled images: a child process that knows only the file predicts them.

``python -m resnext.deploy.int8_judge FILE`` is the child. It reads lines "IMAGES.npz OUT.npz" and answers each with
``done``, so that any number of images passes through little memory.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import numpy as np

from resnext.deploy.int8_gate import PairedResult
from resnext.deploy.verify import CHILD_SECONDS, compute_reference, describe_child_failure, run_as_child
from resnext.errors import WorkError

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnext.data.dataset import Dataset
    from resnext.model.network import Network

CHUNK = 128  # images that the child gets at once
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LabelledImages:
    """Images with the indices of their classes among the network's outputs, and where they come from in words."""

    dataset: "Dataset"
    source: str

    def iterate_chunks(self) -> Iterator[list["Image"]]:
        """Yield the images in order, a few at a time."""
        for start in range(0, len(self.dataset), CHUNK):
            stop = min(start + CHUNK, len(self.dataset))
            yield [self.dataset.image(index) for index in range(start, stop)]


class Judge:
    """Compare exported files with the network in fp32, on the same labelled images.

    Args:
        network: The network, on the CPU.
        judged: Images that are in neither the training nor the calibration data.
        progress: Called with the number of images done and of all, for fp32 and then for each file.
    """

    def __init__(self, network: "Network", judged: LabelledImages, progress: Progress = lambda *_: None) -> None:
        self.network, self.judged, self.progress = network, judged, progress

    @cached_property
    def right_fp32(self) -> np.ndarray:
        """Whether each image is predicted correctly by the network in PyTorch in fp32, bool [N]."""
        chunks = (compute_reference(self.network, images) for images in self.judged.iterate_chunks())
        return self._compare(chunks)

    def judge(self, file: Path) -> PairedResult:
        """Predict all images with an exported file. Raises WorkError if it does not run."""
        before = self.right_fp32
        with run_judge_child(file) as predict:
            after = self._compare(predict(images) for images in self.judged.iterate_chunks())
        return PairedResult(len(before), int(before.sum()), int((before & ~after).sum()), int((after & ~before).sum()))

    def _compare(self, chunks: Iterator[np.ndarray]) -> np.ndarray:
        """Compare logits [n, K] of all chunks with the labels; logits that are not finite are wrong."""
        labels, parts, done = self.judged.dataset.labels, [], 0
        for logits in chunks:
            is_right = logits.argmax(axis=1) == labels[done : done + len(logits)]
            parts.append(is_right & np.isfinite(logits).all(axis=1))
            done += len(logits)
            self.progress(done, len(labels))
        return np.concatenate(parts)


@contextmanager
def run_judge_child(file: Path) -> Iterator[Callable[[Sequence["Image"]], np.ndarray]]:
    """Start a child process that runs an exported file; yield a function from images to logits [n, K].

    Raises WorkError with the child's last words if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found, words = (Path(folder) / name for name in ("images.npz", "outputs.npz", "stderr"))
        command = [sys.executable, "-m", __name__, str(file)]
        with words.open("w") as errors:
            pipe = subprocess.PIPE
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def predict(images: Sequence["Image"]) -> np.ndarray:
            np.savez(given, *[np.asarray(image) for image in images])
            timer = Timer(CHILD_SECONDS, child.kill)
            timer.start()
            try:
                stdin.write(f"{given}\t{found}\n")
                stdin.flush()
                answer = stdout.readline()
            except BrokenPipeError:
                answer = ""
            finally:
                timer.cancel()
            if answer != "done\n":
                done = subprocess.CompletedProcess(command, child.wait(), "", words.read_text(errors="replace"))
                raise WorkError(describe_child_failure(done))
            with np.load(found) as arrays:
                return np.asarray(arrays["logits"])

        try:
            yield predict
        finally:
            stdout.close()
            child.kill()
            child.wait()
            with suppress(BrokenPipeError):
                stdin.close()


def main(arguments: Sequence[str]) -> None:
    """Compute the logits of the images of each line of standard input. The child process."""
    from resnext.deploy.exported import open_exported
    from resnext.deploy.predictor import Predictor

    exported = replace(open_exported(Path(arguments[0])), is_isolated=True)
    size = exported.info.batch or 1
    with Predictor(exported) as predictor:
        for line in sys.stdin:
            given, found = line.rstrip("\n").split("\t")
            with np.load(given) as arrays:
                images = [predictor.prepare(arrays[name]) for name in arrays.files]
            missing = -len(images) % size  # a fixed batch is filled up
            filled = [*images, *images[:1] * missing]
            parts = [predictor.infer_all(filled[i : i + size]).logits for i in range(0, len(filled), size)]
            np.savez(found, logits=np.concatenate(parts)[: len(images)])
            print("done", flush=True)


if __name__ == "__main__":
    run_as_child(main)
