"""Run every row that has a recipe at toy size: ``resnext paper run ... --toy``.

    python tools/start_every_row.py --out results/paper-rows-start.csv

Four steps on noise say nothing about accuracy. They show that network, augmentation, loss, optimizer and schedule of
each recipe run, and that the same command continues a run.
"""

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

from resnext.cli import main as resnext
from resnext.paper.numbers import load_tables
from resnext.training.logbook import read_log

COLUMNS = ("table", "row", "recipe", "exit status", "steps", "first loss", "last loss", "again", "seconds")


def main() -> None:
    """Run all rows and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("paper-rows-start.csv"), help="CSV to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs, args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for table in load_tables().values():
            for row in table.rows:
                if row.recipe is not None:
                    writer.writerow(dict(zip(COLUMNS, start_row(table.name, row.key, row.recipe, runs), strict=True)))


def start_row(table: str, row: str, recipe: str, runs: str) -> tuple[object, ...]:
    """Run one row twice; return its CSV values."""
    command = ["paper", "run", table, "--row", row, "--toy", "--runs", runs]
    begun = time.perf_counter()
    status = resnext(command)
    seconds = round(time.perf_counter() - begun, 1)
    log = Path(runs) / f"{recipe}-toy" / "log.jsonl"
    before = log.read_bytes() if log.exists() else b""
    losses = [entry["loss"] for entry in read_log(log) if entry["kind"] == "step"]
    again = "goes on, the same log" if resnext(command) == 0 and log.read_bytes() == before else "FAILED"
    print(f"{table} {row}: {status}", file=sys.stderr)
    return table, row, recipe, status, len(losses), round(losses[0], 4), round(losses[-1], 4), again, seconds


if __name__ == "__main__":
    main()
