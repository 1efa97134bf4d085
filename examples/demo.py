"""Train a small ResNeXt on scanned digits, which need no download; evaluate it, and classify a few images."""

import sys
import time
from pathlib import Path

from resnext.cli import main
from resnext.data import open_data
from resnext.settings import DataSettings


def run_step(*words: object) -> None:
    """Print a command as a user would type it, run it, and exit if it fails."""
    command = [str(word) for word in words]
    print(f"\n$ resnext {' '.join(command)}", flush=True)
    status = main(command)
    if status:
        sys.exit(status)


run = Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
start = time.perf_counter()
run_step("train", "small/digits", "--run", run)
print(f"trained, evaluated and reported in {time.perf_counter() - start:.0f} s")

run_step("evaluate", run, "--checkpoint", "last")

held_out = open_data(DataSettings(source="digits")).val
images = run / "a-few-images"
images.mkdir()
for index in range(0, len(held_out), len(held_out) // 5):
    label = held_out.classes[held_out.labels[index]]
    held_out.image(index).save(images / f"a-{label}-number-{index}.png")
run_step("predict", run, images)

print(f"\nthe run directory  {run}\nits report         {run / 'report.html'} (open it in a browser)")
print(f"its page           pip install 'resnext[serve,onnx]'; resnext serve {run} --open")
