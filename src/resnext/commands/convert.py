"""``resnext convert``: convert weights between formats, verified by reading them back."""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError, did_you_mean, escape_unprintable
from resnext.files import check_folder
from resnext.run_directory import CHECKPOINT_NAMES, MAX_JSON_BYTES, RunDirectory, check_checkpoint_choice, is_run

if TYPE_CHECKING:
    from resnext.data.preprocessing import Preprocessing
    from resnext.deploy.publish import ModelCardInfo
    from resnext.model.network import Network
    from resnext.weights.origin import Origin

SUMMARY = "Convert weights between formats: Torch7, torchvision, timm, detectron2, pycls, hub folders, and ours."

# The format of each file extension; a folder is one for a hub.
SUFFIXES = {".safetensors": "ours", ".pth": "torchvision", ".pt": "torchvision", ".pkl": "detectron2"}
TARGETS = ("ours", "torchvision", "timm", "detectron2", "hub")
FOLDER_TARGETS = ("hub", "timm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add IN, OUT and the changes to make."""
    parser.add_argument(
        "source", metavar="IN", help="weights file, run directory, folder, hf://owner/name, https://..."
    )
    parser.add_argument(
        "out", metavar="OUT", help="x.safetensors (ours), x.pth (torchvision), x.pkl (detectron2), folder/ (for a hub)"
    )
    parser.add_argument("--to", choices=TARGETS, help="output format, if OUT does not tell it")
    parser.add_argument("--form", help="grouped, concatenated or branched [that of IN; grouped for other libraries]")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINT_NAMES, default="best", help="which checkpoint of a run [best]"
    )
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="replace the classifier by a new one of N classes; 0 removes it"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one per line, or imagenet, cifar10, cifar100; with --num-classes, classes of the same name "
        "keep their weights",
    )
    parser.add_argument(
        "--in-channels", type=int, metavar="N", help="replace the first convolution for N channels: 1 for grey images"
    )
    parser.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="how images are prepared: paper, torchvision, torchvision_v2, cifar10, cifar100 or FILE.json [that of IN]",
    )
    parser.add_argument(
        "--stride-in-1x1",
        choices=("yes", "no"),
        help="whether the stride is in the first 1x1 convolution, if IN does not tell",
    )
    parser.add_argument("--licence", metavar="WORD", help="licence for the model card, such as apache-2.0 [that of IN]")
    parser.add_argument("--name", metavar="OWNER/NAME", help="name on the hub, for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    """Convert, verify and print; return exit status 0."""
    from resnext.weights import load
    from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING
    from resnext.weights.hub import fetch, is_remote
    from resnext.weights.writers import write_verified

    out = Path(args.out)
    target = choose_target(args.out, args.to)
    form = choose_form(args.form, target)
    check_card_options(args.name, args.licence, target)
    check_checkpoint_choice(args.checkpoint, [args.source])
    path = fetch(args.source) if is_remote(args.source) else Path(args.source)
    check_output(path, out, args.checkpoint, folder=is_folder_target(target, out), overwrite=args.overwrite)
    model = load(
        path,
        args.checkpoint,
        form=form,
        num_classes=args.num_classes,
        classes=read_class_names(args.classes),
        in_channels=args.in_channels,
        stride_in_1x1=None if args.stride_in_1x1 is None else args.stride_in_1x1 == "yes",
        detector_backbone=True,
    )
    if args.preprocessing is not None:
        model.preprocessing = find_preprocessing(args.preprocessing, model.architecture.in_channels)
        notes = [note for note in model.provenance.get("notes", []) if note != UNKNOWN_PREPROCESSING]
        model.provenance["notes"] = [*notes, f"the preprocessing is {args.preprocessing}, as given by --preprocessing"]
    origin = describe_source(model, args.source, path, args.checkpoint)
    if not isinstance(model.provenance.get("source"), dict):
        model.provenance["source"] = origin.to_dict()
    write = choose_writer(target, args, model, path)
    remove_local_paths(model.provenance)
    proof = write_verified(model, out, write)
    print_conversion(model, origin, args.source, out, target, proof)
    return 0


def choose_target(out: str, to: str | None) -> str:
    """Choose the format of OUT. Raises RequestError if its extension is unknown or contradicts ``--to``."""
    path = Path(out)
    folder = out.endswith(("/", "\\")) or path.is_dir() or not path.suffix
    meant = "hub" if folder else SUFFIXES.get(path.suffix.lower())
    if to is None:
        if meant is None:
            raise RequestError(
                f"{out}: unknown extension {path.suffix}{did_you_mean(path.suffix, SUFFIXES)}; "
                f"or give --to {'|'.join(TARGETS)}"
            )
        return meant
    fits = to in FOLDER_TARGETS if folder else to != "hub" and meant in (None, to)
    if not fits and not (to == "timm" and path.suffix.lower() == ".safetensors"):
        raise RequestError(
            f"--to {to} contradicts {out}, which is "
            + ("a folder" if folder else f"named as a file of {meant}" if meant else "a file; a hub needs a folder")
        )
    return to


def is_folder_target(target: str, out: Path) -> bool:
    """Whether OUT is a folder; for timm, OUT.safetensors is a file with the weights only."""
    return target == "hub" or (target == "timm" and out.suffix.lower() != ".safetensors")


def choose_form(form: str | None, target: str) -> str | None:
    """Choose the form to write. Raises RequestError if the target library has only form (c)."""
    from resnext.model.architecture import FORMS

    if form is not None and form not in FORMS:
        raise RequestError(f"--form {form!r} is unknown{did_you_mean(form, FORMS)}")
    if form not in (None, "grouped") and target not in ("ours", "hub"):
        raise RequestError(f"{target} supports only form grouped; write a .safetensors of ours to keep --form {form}")
    return form if form is not None or target == "ours" else "grouped"


def check_card_options(name: str | None, licence: str | None, target: str) -> None:
    """Check --name and --licence; raises RequestError if they are malformed or no model card is written."""
    for option, word in (("--name", name), ("--licence", licence)):
        if word is not None and target != "hub":
            raise RequestError(f"{option} is for the model card of a hub folder; {target} has none")
    if name is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise RequestError(f"--name {name!r} should look like owner/name")
    if licence is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", licence):
        raise RequestError(f"--licence {licence!r} should be one word, such as apache-2.0")


def check_output(source: Path, out: Path, checkpoint: str, *, folder: bool, overwrite: bool) -> None:
    """Check OUT; raises RequestError if it is IN, or exists and may not be replaced."""
    read = RunDirectory(source).weights(checkpoint) if is_run(source) else source
    for path in (source, read):
        if out.exists() and path.exists() and out.samefile(path):
            raise RequestError(f"{out} is the input too; give another OUT")
    check_folder(out if folder and out.is_dir() else out.absolute().parent, f"{out}: the folder")
    if not out.exists() and not out.is_symlink():
        return
    if folder != out.is_dir():
        raise RequestError(f"{out} is {'not a folder' if folder else 'a folder'}; give another OUT")
    if not overwrite and not (folder and not any(out.iterdir())):
        raise RequestError(f"{out} exists; --overwrite replaces {'its files' if folder else 'it'}")
    if is_run(out):
        raise RequestError(f"{out} is a run directory; give another OUT")


def read_class_names(given: str | None) -> tuple[str, ...] | None:
    """Read class names: a known list, or the lines of a UTF-8 file."""
    if given is None:
        return None
    from resnext.data.imagenet_classes import imagenet_classes
    from resnext.weights import presets

    words: dict[str, Callable[[], tuple[str, ...]]] = {
        "imagenet": imagenet_classes,
        "cifar10": lambda: presets.CIFAR10_CLASSES,
        "cifar100": lambda: presets.CIFAR100_CLASSES,
    }
    if given in words:
        return words[given]()
    names = [line.strip() for line in _read_text(given, "class names", words).splitlines()]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name:
            raise RequestError(f"{given}: line {number} is empty; each line names one class")
    if not names:
        raise RequestError(f"{given} names no classes")
    return tuple(names)


def find_preprocessing(given: str, channels: int) -> "Preprocessing":
    """Find a known preprocessing, or read one from a JSON file; it must have ``channels`` channels."""
    from resnext.data.preprocessing import Preprocessing
    from resnext.weights.presets import PREPROCESSINGS

    found = PREPROCESSINGS.get(given)
    if found is None:
        text = _read_text(given, "preprocessing", PREPROCESSINGS)
        try:
            found = Preprocessing.from_dict(json.loads(text))
        except RequestError as error:
            raise RequestError(f"{given}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{given} is not JSON: {error}") from None
    if found.channels != channels:
        raise RequestError(f"--preprocessing {given} is for {found.channels} channels; the network takes {channels}")
    return found


def _read_text(path: str, what: str, words: Any) -> str:
    """Read a text file given by the user. Raises RequestError, with the nearest known word."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise RequestError(f"{path} is too large for {what}")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text, so it holds no {what}") from None
    except OSError:
        raise RequestError(
            f"{path!r} is neither a file with {what} nor a known word{did_you_mean(path, words)}"
        ) from None


def describe_source(model: "Network", source: str, path: Path, checkpoint: str) -> "Origin":
    """Describe the source, IN: its file with size and SHA-256, and its URL if it has one."""
    from resnext.weights.origin import find_origin
    from resnext.weights.readers.detect_format import WEIGHTS_FILE_NAMES

    file = RunDirectory(path).weights(checkpoint) if is_run(path) else path
    if file.is_dir():
        file = next((file / name for name in WEIGHTS_FILE_NAMES if (file / name).exists()), file)
    converted = isinstance(model.provenance.get("source"), dict)
    about = {"format": "resnext" if converted else model.provenance.get("format")}
    address = find_origin(about, source) if source != str(path) else None
    found = find_origin(about, file)
    return replace(found, hub=address.hub, url=address.url) if address else found


def remove_local_paths(provenance: dict[str, Any]) -> None:
    """Remove local paths from the record of a run's initial weights; keep their origin."""
    from resnext.weights.hub import is_remote
    from resnext.weights.origin import find_origin

    start = provenance.get("init")
    if not isinstance(start, dict):
        return
    weights = str(start.get("weights"))
    if not is_remote(weights):
        source = start.get("source") or find_origin(start, weights).to_dict()
        provenance["init"] = start | {"weights": Path(weights).name, "source": source}


def choose_writer(
    target: str, args: argparse.Namespace, model: "Network", path: Path
) -> "Callable[[Network, Path], None]":
    """Choose the function that writes the format."""
    from resnext.deploy import publish
    from resnext.weights import writers

    if target == "hub":
        about = collect_card_facts(args, model, path)
        return lambda network, folder: publish.write_hub_folder(network, folder, about)
    return {
        "ours": writers.write_native,
        "torchvision": writers.write_torchvision,
        "timm": writers.write_timm,
        "detectron2": writers.write_detectron2,
    }[target]


def collect_card_facts(args: argparse.Namespace, model: "Network", path: Path) -> "ModelCardInfo":
    """Collect the facts for the model card: name, licence, the public file it comes from, the run."""
    from resnext.deploy.publish import ModelCardInfo
    from resnext.weights.native import DETECTOR_FORMAT
    from resnext.weights.origin import identify_source, is_unchanged

    return ModelCardInfo(
        name=args.name,
        licence=args.licence,
        origin=identify_source(model.provenance, path, model.architecture.name),
        is_unchanged=is_unchanged(model.provenance),
        run=RunDirectory(path) if is_run(path) and model.provenance.get("format") != DETECTOR_FORMAT else None,
        checkpoint=args.checkpoint,
    )


def print_conversion(model: "Network", origin: "Origin", source: str, out: Path, target: str, proof: float) -> None:
    """Print what was read, the notes, and what was written."""
    from rich.table import Table
    from rich.text import Text

    from resnext.data.files.download import compute_sha256
    from resnext.evaluate.output.protocol import format_view
    from resnext.screen import make_screen

    a, p, classes = model.architecture, model.preprocessing, model.classes or ("no names",)
    names = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
    written = out / "model.safetensors" if out.is_dir() else out
    rows = [
        ("read", source),
        ("format", origin.format or "resnext"),
        ("network", a.name),
        ("form", a.form),
        ("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}"),
        ("preprocessing", "unknown" if p is None else f"{p.color_order}, {format_view(p.to_dict())}"),
        ("classes", f"{a.num_classes} ({names})" if a.num_classes else "none: outputs pooled features"),
        *(("note", str(note)) for note in model.provenance.get("notes") or ()),
        ("written", f"{out} ({target})"),
        ("", f"{written.stat().st_size:,} bytes"),
        ("SHA-256", compute_sha256(written)),
    ]
    if target == "torchvision" or (target == "timm" and not out.is_dir()):
        rows.append(("", "this format cannot store preprocessing and class names: keep them elsewhere"))
    rows.append(("verified", "read back; outputs " + (f"differ by at most {proof:.2g}" if proof else "are identical")))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(key, Text(escape_unprintable(value)))
    make_screen().print(table)
