"""Test training across hosts with failures: hosts are network namespaces, and the result must not change.

    sudo python tools/prove_scale_out.py [SCENARIO ...] [--out results/scale-out.csv]

Each host is a namespace with its own address on a bridge. On it a supervisor (in place of systemd, Slurm or Kubernetes)
repeats ``torchrun ... resnext train RECIPE --continue RUN`` until it succeeds. Nothing leaves the machine. Needs root,
Linux and iproute2; ``clock`` needs faketime, ``mirror`` needs the extras [remote,object-store-tests].
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.numpy import load_file

RECIPE = """
model: {name: resnext11_2x4d, base_channels: 8}
data: {source: digits, workers: 1}
augment: {crop: pad, pad: 1, mixup: 0.2}
optimizer: {lr: 0.05}
schedule: {name: cosine, warmup_epochs: 0.5}
train: {epochs: 6, batch_size: 16, bn_batch_size: 8, drop_path: 0.1, ema_decay: 0.9, channels_last: "no",
        checkpoint_steps: 10, threads: 1, peer_timeout: 15, seed: 3}
"""
STEPS = 6 * (1438 // 16)
LOSS_STEP = 150  # the step after which a host is lost
CONF = "join_timeout=60,last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3"
AWAY_SECONDS = 8.0  # seconds that a lost host stays away; longer than the rendezvous remembers a dead host
COLUMNS = (
    *(
        "scenario",
        "what happened",
        "processes at the start",
        "processes at the end",
        "launches",
        "steps",
        "steps twice",
    ),
    *("steps missing", "weights", "largest difference", "top1_error", "seconds"),
)


@dataclass
class Cluster:
    """Namespaces on one bridge, and the supervisor of each host."""

    folder: Path
    recipe: Path
    hosts: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, host: str) -> str:
        """Return the address of a host."""
        return f"10.77.0.{1 + ord(host) - ord('a')}"

    def launch(self, host: str, run: Path, nodes: str, *extra: str, prefix: str = "") -> None:
        """Start a supervisor on ``host`` that repeats the command until it succeeds."""
        torchrun = (
            f"{prefix} {sys.executable} -m torch.distributed.run --nnodes {nodes} --nproc-per-node 1 --max-restarts 20 "
            f"--rdzv-backend c10d --rdzv-endpoint {self.address('a')}:29400 --rdzv-id one --local-addr "
            f"{self.address(host)} --rdzv-conf is_host={int(host == 'a')},{CONF} "
            f"-m -- resnext train {self.recipe} --continue {run} {' '.join(extra)}"
        )
        again = f"until echo launch >> {self.folder}/launches; {torchrun}; do sleep 1; done"
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", "FAKETIME_NO_CACHE": "1"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # docs/scale-out.md
        log = (self.folder / f"{host}.log").open("ab")
        command = ["ip", "netns", "exec", f"rx-{host}", "bash", "-c", again]
        self.hosts[host] = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, stdin=subprocess.DEVNULL
        )

    def kill(self, host: str) -> None:
        """Kill every process in the namespace of a host."""
        while pids := subprocess.run(
            ["ip", "netns", "pids", f"rx-{host}"], capture_output=True, text=True, check=True
        ).stdout.split():
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        self.hosts.pop(host).wait()

    def cable(self, host: str, state: str) -> None:
        """Set the network link of a host up or down."""
        run_ip("-n", f"rx-{host}", "link", "set", "eth0", state)

    def wait(self, seconds: float) -> None:
        """Wait until every supervisor has finished. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in self.hosts.values()):
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {seconds:.0f} s; see {self.folder}")
            time.sleep(0.2)


def run_ip(*words: str) -> None:
    """Run the ip command."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def make_cluster(folder: Path, hosts: str) -> Iterator[Cluster]:
    """Create namespaces rx-a, rx-b ... on a bridge in rx-switch; remove all processes and namespaces afterwards."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    names = [f"rx-{host}" for host in hosts]
    made = Cluster(folder, recipe)
    try:
        run_ip("netns", "add", "rx-switch")
        run_ip("-n", "rx-switch", "link", "add", "bridge0", "type", "bridge")
        run_ip("-n", "rx-switch", "link", "set", "bridge0", "up")
        for host, name in zip(hosts, names, strict=True):
            run_ip("netns", "add", name)
            run_ip(
                "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port-{host}", "netns", "rx-switch"
            )
            run_ip("-n", "rx-switch", "link", "set", f"port-{host}", "master", "bridge0", "up")
            run_ip("-n", name, "addr", "add", f"{made.address(host)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run_ip("-n", name, "link", "set", link, "up")
        yield made
    finally:
        for host in list(made.hosts):
            made.kill(host)
        for name in (*names, "rx-switch"):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def read_rows(run: Path) -> list[dict[str, object]]:
    """Read the log of a run."""
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for_step(run: Path, step: int, seconds: float = 240) -> None:
    """Wait until a run has logged a step. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not any(row["kind"] == "step" and row["step"] == step for row in read_rows(run)):
        if time.monotonic() > end:
            raise TimeoutError(f"{run} did not reach step {step} in {seconds:.0f} s")
        time.sleep(0.05)


def start_run(c: Cluster, hosts: str, nodes: str) -> Path:
    """Start a run on these hosts and wait until it reaches LOSS_STEP."""
    run = c.folder / "run"
    for host in hosts:
        c.launch(host, run, nodes)
    wait_for_step(run, LOSS_STEP)
    return run


def run_uninterrupted(c: Cluster) -> tuple[str, int, int, Path]:
    """Train on two hosts without failures."""
    for host in "ab":
        c.launch(host, c.folder / "run", "2")
    return "nothing: two hosts from the first step to the last", 2, 2, c.folder / "run"


def run_killed(c: Cluster) -> tuple[str, int, int, Path]:
    """Kill the second host and restart it."""
    run = start_run(c, "ab", "2")
    c.kill("b")
    time.sleep(AWAY_SECONDS)
    c.launch("b", run, "2")
    return "the second host is killed and started again 8 s later", 2, 2, run


def run_leader_killed(c: Cluster) -> tuple[str, int, int, Path]:
    """Kill the first host and restart it."""
    run = start_run(c, "ab", "2")
    c.kill("a")
    time.sleep(AWAY_SECONDS)
    c.launch("a", run, "2")
    return "the first host, which holds the rendezvous and writes the run, is killed and started again", 2, 2, run


def run_shrinking(c: Cluster) -> tuple[str, int, int, Path]:
    """Kill the second host and go on without it."""
    run = start_run(c, "ab", "1:2")
    c.kill("b")
    return "the second host is killed and stays away: the first goes on alone", 2, 1, run


def run_growing(c: Cluster) -> tuple[str, int, int, Path]:
    """Start the second host later."""
    run = start_run(c, "a", "1:2")
    c.launch("b", run, "1:2")
    return "the second host comes when the first has trained alone for a while", 1, 2, run


def run_cut_cable(c: Cluster) -> tuple[str, int, int, Path]:
    """Cut the network of the second host for a while."""
    run = start_run(c, "ab", "2")
    c.cable("b", "down")
    time.sleep(25)
    c.cable("b", "up")
    return "the second host's cable is out for 25 s (peer_timeout 15 s)", 2, 2, run


def run_without_shared_disk(c: Cluster) -> tuple[str, int, int, Path]:
    """Kill the first host and erase its disk; checkpoints survive in an object store (moto) on a third host."""
    server = (
        "from moto.server import ThreadedMotoServer as S; import time; S('0.0.0.0', 5000).start(); time.sleep(9999)"
    )
    with (c.folder / "store.log").open("wb") as log:
        store = ["ip", "netns", "exec", "rx-c", sys.executable, "-c", server]
        c.hosts["c"] = subprocess.Popen(store, stdout=log, stderr=log, start_new_session=True)
    os.environ.update(
        AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL=f"http://{c.address('c')}:5000",
    )  # fmt: skip
    bucket = "import time, fsspec; time.sleep(5); fsspec.filesystem('s3').mkdir('bucket')"
    subprocess.run(["ip", "netns", "exec", "rx-a", sys.executable, "-c", bucket], check=True)
    disks = {host: c.folder / f"disk-{host}" / "run" for host in "ab"}
    extra = ("--train.checkpoint_url", "s3://bucket/run", "--train.checkpoint_steps", "40")
    for host, disk in disks.items():
        c.launch(host, disk, "2", *extra)
    wait_for_step(disks["a"], LOSS_STEP)
    c.kill("a")
    shutil.rmtree(disks["a"])
    c.launch("a", disks["a"], "2", *extra)
    end = time.monotonic() + 400
    while c.hosts["a"].poll() is None or c.hosts["b"].poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"not done after 400 s; see {c.folder}")
        time.sleep(0.2)
    c.kill("c")
    done = [disk for disk in disks.values() if (disk / "report.html").exists()]
    return "no shared disk: the first host is killed, its disk erased; all that is left is the mirror", 2, 2, done[0]


def run_with_clock_skew(c: Cluster) -> tuple[str, int, int, Path]:
    """Let the clocks of the hosts differ."""
    run = c.folder / "run"
    c.launch("a", run, "2")
    c.launch("b", run, "2", prefix="faketime -f +60s")
    return "the second host's clock is 60 s ahead", 2, 2, run


SCENARIOS: dict[str, Callable[[Cluster], tuple[str, int, int, Path]]] = {
    "uninterrupted": run_uninterrupted, "killed": run_killed, "leader killed": run_leader_killed,
    "shrinks": run_shrinking,
    "grows": run_growing, "cable": run_cut_cable, "mirror": run_without_shared_disk, "clock": run_with_clock_skew,
}  # fmt: skip


def summarize_run(name: str, c: Cluster, whole: Path | None, seconds: float) -> dict[str, object]:
    """Summarize a run, compared with the uninterrupted one at ``whole``."""
    what, start, end, run = c.outcome  # type: ignore[attr-defined]
    steps = [row["step"] for row in read_rows(run) if row["kind"] == "step"]
    last = [row for row in read_rows(run) if row["kind"] == "epoch"][-1]
    ours = load_file(next((run / "checkpoints" / "last").glob("model-*")))
    theirs = load_file(next((whole / "checkpoints" / "last").glob("model-*"))) if whole else ours
    largest = max(float(abs(ours[k].astype("f8") - theirs[k].astype("f8")).max()) for k in ours)
    same = whole is None or all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)
    launches = (c.folder / "launches").read_text(encoding="utf-8").count("launch")
    values = (
        *(name, what, start, end, launches, len(steps), len(steps) - len(set(steps)), STEPS - len(set(steps))),
        *("reference" if whole is None else "bit-equal" if same else "differ", largest, last["top1_error"]),
        round(seconds, 1),
    )
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    """Run the scenarios and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} [all]")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--keep", type=Path, help="folder for logs and runs [a temporary one]")
    args = parser.parse_args()
    wanted = ["uninterrupted", *(name for name in args.scenarios or SCENARIOS if name != "uninterrupted")]
    results, whole = [], None
    with tempfile.TemporaryDirectory() as temporary:
        for name in wanted:
            folder = (args.keep or Path(temporary)) / name.replace(" ", "-")
            folder.mkdir(parents=True)
            with make_cluster(folder, "abc") as c:
                started = time.monotonic()
                c.outcome = SCENARIOS[name](c)  # type: ignore[attr-defined]
                c.wait(400)
                results.append(summarize_run(name, c, whole, time.monotonic() - started))
                whole = whole or c.outcome[3]  # type: ignore[attr-defined]
            print(json.dumps(results[-1]), flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(results)


if __name__ == "__main__":
    main()
