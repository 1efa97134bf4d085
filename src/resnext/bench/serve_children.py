"""The processes of ``bench serve``: servers, the ceiling, and load generators."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from resnext.bench.measure import MIB, make_child_variables
from resnext.bench.serve_load import LoadPlan, LoadResult
from resnext.errors import RequestError, WorkError

SAMPLE_SECONDS = 0.1  # between two looks at a server under load
STOP_SECONDS = 40.0
PROBES = ("/healthz", "/readyz", "/metrics")
PROBES_PER_SECOND = 20.0


@dataclass
class ProcessState:
    """What a server took while it was under load; 0 where the system does not tell."""

    rss_mib: float = 0.0  # the most
    threads: int = 0  # the most
    cpu_seconds: float = 0.0  # of the whole process


class Child:
    """A Python process that answers on its standard output; it is ended at the end of the context."""

    def __init__(self, words: Sequence[str]) -> None:
        self.name = " ".join(words[:2])
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, encoding="utf-8",
            env=make_child_variables(),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def read_line(self) -> str:
        """Read a line. Raises RequestError or WorkError, as the child said, if it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return line
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode("utf-8", "replace").strip().splitlines() or [f"exit status {status}"]
        kind = RequestError if status == 2 else WorkError
        raise kind(f"{self.name} ended: {said[-1].removeprefix('resnext: ').removeprefix('error: ')}")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send an object as a line of JSON, and return the answer. Raises the error that it says."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read_line says why
        answer: dict[str, Any] = json.loads(self.read_line())
        if "error" in answer:
            raise (RequestError if answer["is_request"] else WorkError)(answer["error"])
        return answer


class ServerChild(Child):
    """A server under test. Its context begins when it answers."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        self.port = 0

    def __enter__(self) -> Self:
        try:
            while not (line := self.read_line()).startswith("http://"):
                pass
        except BaseException:
            self.__exit__()
            raise
        self.port = int(line.split()[0].rpartition(":")[2])
        return self

    def read_state(self) -> ProcessState:
        """Read the state of the process from /proc."""
        folder = Path(f"/proc/{self.process.pid}")
        try:
            pages = int((folder / "statm").read_text().split()[1])
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError, ValueError):
            return ProcessState()
        ticks = int(fields[11]) + int(fields[12])
        threads = len(os.listdir(folder / "task"))
        return ProcessState(pages * os.sysconf("SC_PAGE_SIZE") / MIB, threads, ticks / os.sysconf("SC_CLK_TCK"))

    def stop(self) -> int:
        """Stop the server as a service manager does; return its exit status. Raises WorkError if it does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorkError(f"{self.name} did not end within {STOP_SECONDS:g} seconds of SIGTERM") from None


@dataclass(frozen=True)
class Measured:
    """One load, the probes meanwhile, and what the server took."""

    load: LoadResult
    probes: LoadResult
    state: ProcessState  # cpu_seconds: while the load ran, with its settling
    wall_seconds: float


def run_load(server: ServerChild, plan: LoadPlan, has_probes: bool = True) -> Measured:
    """Run a load against a server while another process probes it."""
    plans = [plan]
    if has_probes:
        plans.append(
            LoadPlan(
                port=plan.port, method="GET", paths=PROBES, rate=PROBES_PER_SECOND, seconds=plan.seconds,
                settle_seconds=plan.settle_seconds,
            )
        )  # fmt: skip
    before, begin = server.read_state(), time.perf_counter()
    peak = ProcessState()
    children = [_LoadChild(one) for one in plans]
    try:
        while any(child.process.poll() is None for child in children):
            now = server.read_state()
            peak.rss_mib, peak.threads = max(peak.rss_mib, now.rss_mib), max(peak.threads, now.threads)
            peak.cpu_seconds = max(peak.cpu_seconds, now.cpu_seconds - before.cpu_seconds)
            time.sleep(SAMPLE_SECONDS)
        found = [child.read_result() for child in children]
    finally:
        for child in children:
            child.close()
    return Measured(found[0], found[1] if has_probes else LoadResult(seconds=0.0), peak, time.perf_counter() - begin)


class _LoadChild:
    """A load generator. Its answer goes to a file, as it may be too large for a pipe that nobody reads yet."""

    def __init__(self, plan: LoadPlan) -> None:
        self.answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close
        self.process = subprocess.Popen(
            [sys.executable, "-m", "resnext.bench.serve_load"],
            stdin=subprocess.PIPE, stdout=self.answer, stderr=subprocess.STDOUT, env=make_child_variables(),
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(plan)).encode())
        self.process.stdin.close()

    def read_result(self) -> LoadResult:
        """Read the result. Raises WorkError if the process failed."""
        self.answer.seek(0)
        said = self.answer.read().decode("utf-8", "replace").strip().splitlines() or ["no answer"]
        if self.process.returncode:
            raise WorkError(f"the load generator failed: {said[-1]}")
        return LoadResult(**json.loads(said[-1]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.answer.close()
