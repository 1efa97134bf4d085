"""Run the commands of README that it shows with their output, in one go, and write what they print into README.

    python tools/update_readme.py            # about two minutes on two cores
    python tools/update_readme.py --check    # writes nothing; exit status 1 if an output has another shape

Where README leaves out lines (``...``), as many lines before and after it are taken as it has. Numbers that vary with
the machine (times, and what training computes) have a shape only: the line with every number replaced by 0.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
TORCH7_FILE = "B_cifar11_nn_float.t7"  # which Torch7 wrote for this project
TORCH7_ARCHIVE = PROJECT / "tests" / "assets" / "torch7.tar.xz"
EXACT = ("resnext info", "resnext design", "resnext convert")  # print the same on every machine
INDENT = "    "


@dataclass(frozen=True)
class Shown:
    """A command of README and the output that README shows below it."""

    command: str
    output: tuple[str, ...]
    start: int  # index of the output's first line in README

    @property
    def is_exact(self) -> bool:
        """Whether the output is the same on every machine."""
        return self.command.startswith(EXACT)


def main() -> int:
    """Update or check README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    lines = README.read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [(shown, run(shown, Path(folder))) for shown in list_shown(lines)]
    if args.check:
        differences = [line for shown, output in outputs for line in compare(shown, output)]
        print("\n".join(differences) or "README shows what the commands print")
        return int(bool(differences))
    for shown, output in reversed(outputs):
        new = shorten(output, shown.output)
        lines[shown.start : shown.start + len(shown.output)] = [f"{INDENT}{line}".rstrip() for line in new]
    README.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def list_shown(lines: list[str]) -> list[Shown]:
    """List the commands that README shows with an output: indented, the command after ``$``, the output below it."""
    shown = []
    for index, line in enumerate(lines):
        if not line.startswith(f"{INDENT}$ resnext "):
            continue
        end = index + 1
        while end < len(lines) and (lines[end].startswith(INDENT) or (not lines[end] and _continues(lines, end))):
            if lines[end].startswith(f"{INDENT}$ "):
                break
            end += 1
        output = tuple(line.removeprefix(INDENT) for line in lines[index + 1 : end])
        if output:
            shown.append(Shown(line.removeprefix(f"{INDENT}$ "), output, index + 1))
    return shown


def _continues(lines: list[str], index: int) -> bool:
    """Return whether the indented block goes on after an empty line."""
    return index + 1 < len(lines) and lines[index + 1].startswith(INDENT)


def run(shown: Shown, folder: Path) -> list[str]:
    """Run a command in ``folder``, which has what the commands before it wrote, and return the lines it prints."""
    if TORCH7_FILE in shown.command:
        extract_torch7_file(folder)
    if "a-few-images" in shown.command:
        write_images(folder / "runs/digits/a-few-images")
    path = os.pathsep.join([str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "resnext", *shown.command.split()[1:]]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shown.command}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout.rstrip("\n").splitlines()


def extract_torch7_file(folder: Path) -> None:
    """Write the file of the paper's Torch7 code that README converts into ``folder``."""
    with tarfile.open(TORCH7_ARCHIVE) as tar:
        tar.extract(TORCH7_FILE, folder, filter="data")


def write_images(folder: Path) -> None:
    """Write the held-out scans that examples/demo.py writes."""
    from resnext.data import open_data
    from resnext.settings import DataSettings

    held_out = open_data(DataSettings(source="digits")).val
    folder.mkdir()
    for index in range(0, len(held_out), len(held_out) // 5):
        label = held_out.classes[held_out.labels[index]]
        held_out.image(index).save(folder / f"a-{label}-number-{index}.png")


def shorten(output: list[str], shown: tuple[str, ...]) -> list[str]:
    """Leave out the lines of ``output`` that README leaves out (``...``)."""
    if "..." not in shown:
        return output
    at = shown.index("...")
    return [*output[:at], "...", *output[len(output) - (len(shown) - at - 1) :]]


def compare(shown: Shown, output: list[str]) -> list[str]:
    """List how ``output`` differs from what README shows: in anything, or in its shape.

    The line on the class with the fewest right counts for nothing: it is printed where the best epoch makes mistakes.
    """
    output = [line.rstrip() for line in output if not line.startswith("fewest right:")]
    new = shorten(output, shown.output)
    if shown.is_exact:
        pairs = [(line, line) for line in shown.output], [(line, line) for line in new]
    else:
        pairs = [(find_shape(line), line) for line in shown.output], [(find_shape(line), line) for line in new]
    old_lines, new_lines = pairs
    if [shape for shape, _ in old_lines] == [shape for shape, _ in new_lines]:
        return []
    gone = [f"- {line}" for shape, line in old_lines if shape not in dict(new_lines)]
    come = [f"+ {line}" for shape, line in new_lines if shape not in dict(old_lines)]
    return [f"$ {shown.command}", *(gone + come or ["  the lines have another order or number"])]


def find_shape(line: str) -> str:
    """Return a line without what varies: numbers, the choice of a memory layout, which epoch was the best."""
    line = re.sub(r"\d[\d,.]*", "0", line)
    line = re.sub(r"after the last epoch.*", "after the last epoch", line)
    return re.sub(r"\s+", " ", re.sub(r"^N\w+:", "layout:", line))


if __name__ == "__main__":
    sys.exit(main())
