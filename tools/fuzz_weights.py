"""Coverage-guided fuzzing of the weights readers: every file must give a network or a RequestError.

    python tools/fuzz_weights.py FORMAT --seconds 300

runs atheris (`pip install '.[fuzz]'`) on the reader of one format, with small real files as seeds; FORMAT is one of
FORMATS. Any other outcome, or more than 10 seconds or 2 GiB for one input, stops the run and leaves the input in the
working directory. Counts go to `--out`, a CSV with one row per run; results/fuzz.csv holds our results.
"""

import argparse
import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

FORMATS = ("safetensors", "zip", "zip-inside", "legacy", "pickle", "torch7", "torch7-ascii", "any")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "t7"


def main() -> None:
    """Fuzz one format in a child process, and record the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)  # set in the child process that fuzzes
    args, _ = parser.parse_known_args()
    if args.corpus is not None:
        fuzz(args.format, args.corpus, args.seconds)
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        write_seeds(args.format, corpus)
        command = [sys.executable, __file__, args.format, "--seconds", str(args.seconds), "--corpus", str(corpus)]
        status = subprocess.run(command, check=False).returncode
        counts = json.loads((Path(folder) / "counts.json").read_text(encoding="utf-8"))
    row = {"format": args.format, "seconds": args.seconds, "exit_status": status, **counts}
    print(row)
    if args.out is not None:
        new = not args.out.exists()
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)


def fuzz(kind: str, corpus: Path, seconds: int) -> None:
    """Call ``load`` on mutated files; never returns."""
    import atheris

    with atheris.instrument_imports(include=["resnext.weights", "resnext.model.architecture"]):
        import resnext.weights.adapters.registry
        import resnext.weights.adapters.torch7.network
        import resnext.weights.build
        import resnext.weights.native
        import resnext.weights.readers.detect_format
    from resnext.errors import RequestError

    counts = {"inputs": 0, "networks": 0, "refused": 0}
    path, tally = corpus.parent / "input", corpus.parent / "counts.json"
    tally.write_text(json.dumps(counts), encoding="utf-8")

    def read_input(data: bytes) -> None:
        counts["inputs"] += 1
        path.write_bytes(replace_pickle(data, corpus.parent / "tensors") if kind == "zip-inside" else data)
        try:
            resnext.weights.load(path)
            counts["networks"] += 1
        except RequestError as error:
            if str(path) not in str(error):
                raise AssertionError("the error does not name the file") from error
            counts["refused"] += 1
        if counts["inputs"] % 50 == 0:
            tally.write_text(json.dumps(counts), encoding="utf-8")

    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], read_input)
    atheris.Fuzz()


def write_seeds(kind: str, folder: Path) -> None:
    """Write small real files of the format as seeds."""
    import torch

    import resnext

    model = resnext.create_model("resnext11_2x1d", base_channels=1, num_classes=2, seed=0).eval()
    state = model.state_dict()
    if kind in ("safetensors", "any"):
        resnext.save(model, folder / "ours")
        from safetensors.torch import save_file

        save_file(state, folder / "plain")
    if kind in ("zip", "any"):
        torch.save(state, folder / "state")
        torch.save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, folder / "training")
    if kind == "zip-inside":  # mutate only the pickle: the checksum of a zip would refuse nearly every change
        torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, folder.parent / "tensors")
        with zipfile.ZipFile(folder.parent / "tensors") as whole:
            (folder / "pickle").write_bytes(whole.read("tensors/data.pkl"))
    if kind in ("legacy", "any"):
        torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
    if kind in ("pickle", "any"):
        arrays: dict[str, Any] = {name: value.numpy() for name, value in state.items()}
        for protocol in (0, 2, 5):
            (folder / f"pickle-{protocol}").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol))
    if kind.startswith("torch7") or kind == "any":
        copy_torch7(folder, ascii_only=kind == "torch7-ascii")


def replace_pickle(program: bytes, whole: Path) -> bytes:
    """Return the zip file ``whole`` with another data.pkl and correct checksums."""
    made = io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()


def copy_torch7(folder: Path, *, ascii_only: bool) -> None:
    """Copy real Torch7 files, if they are available."""
    names = ["basics_ascii.t7"] if ascii_only else ["basics.t7", "basics_b32.t7", "hostile/model_ok_tiny.t7"]
    if not SHARED.is_dir():
        sys.exit(f"the seed files of Torch7 are missing: {SHARED}")
    for name in names:
        shutil.copy(SHARED / name, folder / os.path.basename(name))


if __name__ == "__main__":
    main()
