"""Measure how long pip takes to resolve the package and each extra, without constraints.txt.

    python tools/measure_resolving.py --pip 23.2.1 latest --out results/resolving.csv

Each measurement is ``pip install --dry-run`` in a new virtual environment, so nothing is installed. ``rounds`` counts
how often pip looked at several releases of one package. The first run fills pip's download cache: use the second one.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

PROJECT = Path(__file__).parents[1]
COLUMNS = ("extra", "pip", "seconds", "packages", "rounds", "python", "command")


def main() -> None:
    """Measure each extra with each pip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pip", nargs="+", default=["23.2.1", "latest"], metavar="VERSION")
    parser.add_argument(
        "--extras", nargs="+", default=["", *read_extras()], metavar="EXTRA", help="'' is the package without extras"
    )
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pythons = {version: install_pip(version, Path(folder)) for version in args.pip}
        for extra in args.extras:
            for version, python in pythons.items():
                rows.append(resolve(extra, version, python, args.timeout))
                print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "command"), flush=True)
    if args.out is not None:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def read_extras() -> list[str]:
    """Read the names of the extras in pyproject.toml."""
    return list(tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


def install_pip(version: str, folder: Path) -> Path:
    """Create a virtual environment with this release of pip; return its Python."""
    place = folder / version
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    wanted = ["--upgrade", "pip"] if version == "latest" else [f"pip=={version}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def resolve(extra: str, version: str, python: Path, timeout: float) -> dict[str, object]:
    """Measure one dry run: time, number of packages, and how often pip looked at several releases of a package."""
    wanted = f"{PROJECT}[{extra}]" if extra else str(PROJECT)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [python, "-m", "pip", "install", "--dry-run", wanted], capture_output=True, text=True, timeout=timeout
        )
        output, ended = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as late:
        output, ended = (late.stdout or b"").decode("utf-8", "replace"), False
    seconds = time.perf_counter() - start
    chosen = [line for line in output.splitlines() if line.startswith("Would install")]
    return {
        "extra": extra or "(none)",
        "pip": version,
        "seconds": f"{seconds:.0f}" if ended else f"not in {seconds:.0f}",
        "packages": len(chosen[0].split()) - 2 if chosen else "",
        "rounds": output.count("looking at multiple versions"),
        "python": sys.version.split()[0],
        "command": f"python tools/measure_resolving.py --pip {version} --extras '{extra}'",
    }


if __name__ == "__main__":
    main()
