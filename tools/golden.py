"""Record results that must not change during refactoring, and compare with them later on the same machine.

    python tools/golden.py record before.json [--shared DIR]
    python tools/golden.py compare before.json [--shared DIR]

Recorded are the final weights of short runs of each task (plain, with a plan of fast paths, in bf16 with EMA), their
evaluations, outputs and converted files of all Torch7 networks, and the tables of the paper, each as a SHA-256 or as
printed. Last bits differ between processors and PyTorch releases, so a record is valid for one machine only, the one in
its entry ``machine``. DIR holds bccd-coco.tar and t7/; without it those cases are left out.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHORT = [
    *(
        "--train.epochs",
        "2",
        "--schedule.warmup_epochs",
        "1",
        "--data.max_train_images",
        "256",
        "--data.max_val_images",
        "64",
    ),
    *("--train.threads", "1", "--data.workers", "0", "--train.channels_last", "yes"),
]
DIGITS = {  # options of the runs of the digits recipe besides SHORT
    "plain": ["--train.fast", "no"],
    "nchw": ["--train.fast", "no", "--train.channels_last", "no"],
    "plan": ["--train.tuning_plan", "plan.json"],
    "bf16": ["--train.fast", "no", "--train.precision", "bf16", "--train.ema_decay", "0.9", "--augment.mixup", "0.2"],
}
BCCD = {
    "plain": ["--train.fast", "no", "--train.precision", "fp32"],
    "fast": ["--train.fast", "yes"],
}
CONVERSIONS = {"ours": "net.safetensors", "torchvision": "net.pth", "timm": "timm.safetensors"}  # of four stages
TABLES = [*(f"table{n}" for n in range(1, 9)), "residual", "ilsvrc", "modern"]
IGNORED_KEYS = (
    "seconds",
    "images_per_second",
    "wait",
    "torch",
    "date",
    "machine",
)  # parts of result keys that differ from day to day


def main() -> int:
    """Record or compare."""
    sys.path.insert(0, str(ROOT / "src"))  # use the checkout of this file, not an installed package
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--shared", type=Path)
    args = parser.parse_args()
    found = {"machine": describe_machine()}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            for name, value in case(Path(folder), args.shared):
                found[name] = value
                print(f"{name}: {value[:80]}", flush=True)
    if args.action == "record":
        args.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    return compare(json.loads(args.file.read_text("utf-8")), found)


def compare(before: dict[str, str], now: dict[str, str]) -> int:
    """Print what differs; exit status 1 if anything does."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    for name in changed:
        print(f"CHANGED {name}: {before.get(name, '(none)')} -> {now.get(name, '(none)')}")
    print(f"{len(now) - len(changed)} the same, {len(changed)} changed")
    return 1 if changed else 0


def describe_machine() -> str:
    """Describe the processor and the PyTorch release of a record."""
    import torch

    flags = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {flags}, torch {torch.__version__}, Python {platform.python_version()}"


def run_resnext(folder: Path, *words: str) -> str:
    """Run a command in ``folder``; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "RESNEXT_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "resnext", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"resnext {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def hash_weights(run: Path) -> str:
    """Hash names and tensors of a run's last checkpoint."""
    from safetensors.numpy import load_file

    (path,) = run.glob("checkpoints/last/model*.safetensors")
    tensors = sorted(load_file(path).items())
    return hash_bytes(b"".join(name.encode() + value.tobytes() for name, value in tensors))


def read_numbers(path: Path) -> str:
    """Read the numbers of an evaluation's metrics.json that do not differ from day to day."""
    values = json.loads(path.read_text("utf-8"))
    kept = {k: v for k, v in values.items() if isinstance(v, int | float) and not any(w in k for w in IGNORED_KEYS)}
    return json.dumps(kept, sort_keys=True)


def find_recipe(name: str) -> str:
    """Find a small recipe, which older checkouts keep elsewhere."""
    old = ROOT / "recipes" / "small" / f"{name}.yaml"
    return str(old if old.exists() else ROOT / "src/resnext/recipes/small" / f"{name}.yaml")


def run_digits(folder: Path, _: Path | None) -> Iterator[tuple[str, str]]:
    """Train and evaluate on digits."""
    write_plan(folder / "plan.json")
    for name, settings in DIGITS.items():
        run = f"digits-{name}"
        run_resnext(folder, "train", find_recipe("digits"), "--run", run, *SHORT, *settings)
        yield f"{run} weights", hash_weights(folder / run)
        yield f"{run} evaluation", read_numbers(folder / run / "evaluation/metrics.json")
        run_resnext(folder, "evaluate", run, "--checkpoint", "last", "--out", f"{run}-again")
        yield f"{run} evaluate", read_numbers(folder / f"{run}-again/metrics.json")


def write_plan(path: Path) -> None:
    """Write a plan that packs all possible convolutions of the digits network and fuses its norms."""
    network = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"]
    passes = ("forward", "input_gradient", "weight_gradient")
    plan = {
        "convolutions": {f"{block}.conv2": dict.fromkeys(passes, "pack4") for block in network}
        | {f"{block}.conv1": dict.fromkeys(passes, "product") for block in network},
        "norms": [f"{block}.bn{n}" for block in network for n in (1, 2, 3)],
    }
    path.write_text(json.dumps(plan), encoding="utf-8")


def run_bccd(folder: Path, shared: Path | None) -> Iterator[tuple[str, str]]:
    """Train and evaluate a detector on BCCD."""
    if shared is None:
        return
    with tarfile.open(shared / "bccd-coco.tar") as archive:
        archive.extractall(folder / "bccd", filter="data")
    for name, settings in BCCD.items():
        run = f"bccd-{name}"
        recipe = find_recipe("bccd")
        words = ["--train.epochs", "1", "--data.max_train_images", "16", "--train.threads", "1", "--data.workers", "0"]
        words += ["--data.max_val_images", "12", "--schedule.warmup_epochs", "0"]
        run_resnext(folder, "detect", "train", recipe, "--run", run, *words, *settings)
        yield f"{run} weights", hash_weights(folder / run)
        yield f"{run} evaluation", read_numbers(folder / run / "evaluation/metrics.json")


def run_torch7(folder: Path, shared: Path | None) -> Iterator[tuple[str, str]]:
    """Load, run and convert all Torch7 networks."""
    if shared is None:
        return
    import torch

    from resnext import load

    torch.set_num_threads(1)
    for path in sorted((shared / "t7").glob("[BC]_*.t7")):
        stem = path.stem.removesuffix("_float").removesuffix("_cuda")
        images = torch.frombuffer(bytearray((shared / "t7" / f"{stem}_input.bin").read_bytes()), dtype=torch.float32)
        (folder / path.name).write_bytes(path.read_bytes())
        for form in ("grouped", "concatenated", "branched"):
            with torch.inference_mode():
                logits = load(path, form=form).eval()(images.view(-1, 3, 32, 32))
            yield f"{path.name} {form}", hash_bytes(logits.contiguous().numpy().tobytes())
        out = folder / f"{path.stem}.safetensors"
        run_resnext(folder, "convert", path.name, out.name, "--form", "grouped")
        yield f"{path.name} as ours", hash_bytes(out.read_bytes())


def run_conversions(folder: Path, _: Path | None) -> Iterator[tuple[str, str]]:
    """Convert a network to each format."""
    from resnext import create_model, save

    model = create_model("resnext50_4x8d", blocks=(1, 1, 1, 1), num_classes=10, seed=0)
    save(model, folder / "four-stages.safetensors")
    for kind, name in CONVERSIONS.items():
        run_resnext(folder, "convert", "four-stages.safetensors", name, "--to", kind)
        yield f"four stages as {kind}", hash_bytes((folder / name).read_bytes())


def run_paper_tables(folder: Path, _: Path | None) -> Iterator[tuple[str, str]]:
    """Print the tables of the paper."""
    for table in TABLES:
        lines = run_resnext(folder, "paper", table, "--no-measure")
        yield f"paper {table}", hash_bytes(lines.encode())


CASES: tuple[Callable[[Path, Path | None], Iterator[tuple[str, str]]], ...] = (
    run_paper_tables,
    run_conversions,
    run_torch7,
    run_digits,
    run_bccd,
)

if __name__ == "__main__":
    sys.exit(main())
