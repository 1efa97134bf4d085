"""``resnext convert``: convert weights between formats, verified by reading them back."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.choices import CHECKPOINT_NAMES
from resnext.errors import RequestError, did_you_mean
from resnext.files import check_output
from resnext.run_directory import RunDirectory, check_checkpoint_choice, is_run

if TYPE_CHECKING:
    from resnext.model.architecture import Form
    from resnext.model.network import Network
    from resnext.weights.network_spec import NetworkSpec
    from resnext.weights.released import Origin
    from resnext.weights.writers import Writer

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
    from resnext.weights import load, load_spec
    from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING
    from resnext.weights.hub import fetch, is_remote
    from resnext.weights.presets import find_class_names, find_preprocessing
    from resnext.weights.released import describe_source, remove_local_paths
    from resnext.weights.writers import write_verified

    out = Path(args.out)
    target = choose_target(args.out, args.to)
    form = choose_form(args.form, target)
    check_card_options(args.name, args.licence, target)
    check_checkpoint_choice(args.checkpoint, [args.source])
    path = fetch(args.source) if is_remote(args.source) else Path(args.source)
    file = RunDirectory(path).weights(args.checkpoint) if is_run(path) else path
    folder = target == "hub" or (target == "timm" and out.suffix.lower() != ".safetensors")  # else a file
    check_output(out, (path, file), folder=folder, overwrite=args.overwrite)
    if is_run(out):
        raise RequestError(f"{out} is a run directory; give another OUT")
    classes = None if args.classes is None else find_class_names(args.classes)
    if classes is not None and args.num_classes is None:
        check_class_names(args.classes, classes, load_spec(path, args.checkpoint))
    model = load(
        path,
        args.checkpoint,
        form=form,
        num_classes=args.num_classes,
        classes=classes,
        in_channels=args.in_channels,
        stride_in_1x1=None if args.stride_in_1x1 is None else args.stride_in_1x1 == "yes",
        detector_backbone=True,
    )
    if args.preprocessing is not None:
        model.preprocessing = find_preprocessing(args.preprocessing, model.architecture.in_channels)
        notes = [note for note in model.provenance.get("notes", []) if note != UNKNOWN_PREPROCESSING]
        model.provenance["notes"] = [*notes, f"the preprocessing is {args.preprocessing}, as given by --preprocessing"]
    origin = describe_source(model.provenance, args.source, file)
    if not isinstance(model.provenance.get("source"), dict):
        model.provenance["source"] = origin.to_dict()
    write = choose_writer(target, args, model, path)
    remove_local_paths(model.provenance)
    proof = write_verified(model, out, write)
    print_conversion(model, origin, args.source, out, target, proof)
    return 0


def check_class_names(given: str, classes: Sequence[str], spec: "NetworkSpec") -> None:
    """Raise RequestError for names that do not fit the classifier of ``spec``; no new one was asked for."""
    from resnext.weights.modify import match_classes

    outputs, count = spec.architecture.num_classes, len(classes)
    instead = f"--num-classes {count} replaces its classifier"
    if count != outputs:
        raise RequestError(f"--classes {given} has {count} names, but the network has {outputs} classes; {instead}")
    kept = match_classes(spec.classes or classes, classes)
    if len(kept) < count:
        new = next(name for row, name in enumerate(classes) if row not in kept)
        raise RequestError(f"--classes {given} has {new!r}, which is no class of the network; {instead}")


def choose_target(out: str, to: str | None) -> str:
    """Choose the format of OUT. Raises RequestError if its extension is unknown or contradicts ``--to``."""
    path = Path(out)
    folder = out.endswith(("/", "\\")) or path.is_dir() or not path.suffix
    meant = "hub" if folder else SUFFIXES.get(path.suffix.lower())
    if to is None:
        if meant is None:
            hint = f"{did_you_mean(path.suffix, SUFFIXES)}; or give --to {'|'.join(TARGETS)}"
            raise RequestError(f"{out}: unknown extension {path.suffix}{hint}")
        return meant
    fits = to in FOLDER_TARGETS if folder else to != "hub" and meant in (None, to)
    if not fits and not (to == "timm" and path.suffix.lower() == ".safetensors"):
        found = "a folder" if folder else f"named as a file of {meant}" if meant else "a file; a hub needs a folder"
        raise RequestError(f"--to {to} contradicts {out}, which is {found}")
    return to


def choose_form(form: "Form | None", target: str) -> "Form | None":
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


def choose_writer(target: str, args: argparse.Namespace, model: "Network", path: Path) -> "Writer":
    """Choose the function that writes the format; for a hub, collect the facts of the model card."""
    from resnext.deploy import publish
    from resnext.weights import native, released, writers

    if target == "hub":
        is_classification_run = is_run(path) and model.provenance.get("format") != native.DETECTOR_FORMAT
        about = publish.ModelCardInfo(
            name=args.name,
            licence=args.licence,
            origin=released.identify_source(model.provenance, path, model.architecture.name),
            is_unchanged=released.is_unchanged(model.provenance),
            run=RunDirectory(path) if is_classification_run else None,
            checkpoint=args.checkpoint,
        )
        return lambda network, folder: publish.write_hub_folder(network, folder, about)
    return {
        "ours": native.save,
        "torchvision": writers.write_torchvision,
        "timm": writers.write_timm,
        "detectron2": writers.write_detectron2,
    }[target]


def print_conversion(model: "Network", origin: "Origin", source: str, out: Path, target: str, proof: float) -> None:
    """Print what was read, the notes, and what was written."""
    from resnext.evaluation.output.view_text import format_view
    from resnext.files import compute_sha256
    from resnext.screen import print_facts

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
    print_facts(rows)
