"""The proof of scale-out (tools/prove_scale_out.py) holds: hosts in network namespaces, one of them killed."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "prove_scale_out.py"


def namespaces_work() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "rx-try"], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", "rx-try"], capture_output=True, check=False)
    return made


@pytest.mark.slow
def test_a_run_that_loses_a_host_and_one_that_shrinks_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    if sys.platform != "linux" or not namespaces_work():
        pytest.skip("needs Linux, root, iproute2 and network namespaces")
    command = [sys.executable, str(TOOL), "killed", "shrinks", "--out", str(tmp_path / "proof.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "proof.csv").open()))
    assert [row["weights"] for row in rows] == ["reference", "bit-equal", "bit-equal"]
    assert all((row["steps twice"], row["steps missing"]) == ("0", "0") for row in rows)
    assert len({row["top1_error"] for row in rows}) == 1
