"""Standard output and error with a closed reader, a full disk, or a limited encoding."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

START = "import os, sys; from resnext.streams import use_lenient_streams\n"
NAMES = "0.5 – 0.7, 3 × 4, 9 ± 1, 10⁻² …, café, 日本, a\udce9b"


def run_python(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run ``code`` in a process of its own, without torch, so it takes a tenth of a second."""
    return subprocess.run([sys.executable, "-c", START + code], timeout=60, check=False, **options)  # type: ignore[call-overload]


def closed_pipe() -> int:
    """Return the writing end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_what_prints_after_the_reader_has_gone_goes_on_to_its_end(tmp_path: Path, closed: str, unbuffered: str) -> None:
    done, writer = tmp_path / "done", closed_pipe()
    code = (
        "with use_lenient_streams():\n"
        "    for line in range(20_000):\n"
        "        print('to standard output', line)\n"
        "        print('to standard error', line, file=sys.stderr)\n"
        "    os.system('echo a child')\n"
        f"    open({str(done)!r}, 'w').close()\n"
    )
    streams = {name: writer if closed in (name, "both") else subprocess.PIPE for name in ("stdout", "stderr")}
    ended = run_python(code, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, **streams)
    os.close(writer)
    assert ended.returncode == 0
    assert done.exists()
    if closed != "both":
        told = ended.stderr if closed == "stdout" else ended.stdout
        assert told.count(b"\n") == 20_000 + (closed == "stderr")  # and nothing of the interpreter's own
        assert b"BrokenPipe" not in told


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8", "utf-16"])
def test_every_encoding_can_print_every_name(encoding: str) -> None:
    code = f"with use_lenient_streams():\n    print({NAMES!r})\n    print({NAMES!r}, file=sys.stderr)"
    ended = run_python(code, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert ended.returncode == 0
    for told in (ended.stdout.decode(encoding), ended.stderr.decode(encoding)):
        assert "\\udce9b" in told  # a half of a letter is spelled out
        if encoding.startswith("utf"):
            assert told.startswith(NAMES[:20])
        else:
            assert told.startswith("0.5 - 0.7, 3 ")
            assert "\\u65e5\\u672c" in told


def test_an_output_that_was_closed_before_the_start_is_none() -> None:
    command = f"{sys.executable} -m resnext --version >&- 2>&-"
    assert subprocess.run(command, shell=True, timeout=60, check=False).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_a_full_disk_lost_is_named_and_ends_with_status_1() -> None:
    command = [sys.executable, "-m", "resnext", "--version"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.decode() == "resnext: standard output could not be written: No space left on device\n"


def test_a_pipe_that_does_not_block_gets_every_byte() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    command = [sys.executable, "-c", f"{START}with use_lenient_streams():\n    print('x' * 1_000_000)"]
    with subprocess.Popen(command, stdout=writer) as process:
        os.close(writer)
        with open(reader, "rb") as file:
            assert len(file.read()) == 1_000_001
        assert process.wait(60) == 0


def test_python_s_own_streams_are_back_afterwards() -> None:
    code = (
        "before = sys.stdout, sys.stderr\n"
        "with use_lenient_streams():\n    assert sys.stdout is not before[0]\n    print('inside', end=' ')\n"
        "assert (sys.stdout, sys.stderr) == before\nprint('after')"
    )
    assert run_python(code, capture_output=True).stdout == b"inside after\n"
