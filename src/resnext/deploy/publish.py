"""Write a folder for a model hub: weights, config.json, recipe, and a model card with errors and their protocol."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.choices import CheckpointName
from resnext.errors import RequestError
from resnext.evaluation.output.protocol import format_protocol
from resnext.evaluation.output.view_text import format_view
from resnext.files import atomic_write, report_write_errors
from resnext.model.complexity import complexity, get_default_image_size
from resnext.model.network import Network
from resnext.recipe import dump_recipe, read_recipe, replace_places
from resnext.run_directory import MAX_JSON_BYTES, RunDirectory
from resnext.version import __version__
from resnext.weights.hub import is_remote
from resnext.weights.native import serialize_network
from resnext.weights.released import ReleasedFile
from resnext.weights.writers import make_folder

PLOTS = {"confusion.png": "Confusion matrix", "reliability.png": "Reliability diagram of the probabilities"}


@dataclass(frozen=True, kw_only=True)
class ModelCardInfo:
    """Facts for the model card that are not part of the network."""

    name: str | None = None  # owner/name on the hub
    licence: str | None = None  # stated by the publisher, from the hub's list
    origin: ReleasedFile | None = None  # the released file that the weights come from
    is_unchanged: bool = True  # whether the weights still equal that file's
    run: RunDirectory | None = None  # the run that trained the weights
    checkpoint: CheckpointName = "best"  # its checkpoint


def write_hub_folder(model: Network, folder: Path, about: ModelCardInfo) -> None:
    """Write model.safetensors, config.json and README.md, and for a run its recipe, curves and plots.

    ``resnext.load`` reads the folder, and so does timm if it has such a network (the card says whether). Raises
    WorkError if a file cannot be written.
    """
    config, why_not = build_timm_config(model)
    metrics = _read_metrics(about)
    make_folder(folder)
    with atomic_write(folder / "model.safetensors") as file:
        file.write(serialize_network(model))
    with atomic_write(folder / "config.json", "w") as file:
        json.dump(config or _build_own_config(model), file, indent=1)
    recipe = _prepare_recipe(about)
    if recipe is not None:
        with atomic_write(folder / "recipe.yaml", "w") as file:
            file.write(recipe)
    pictures = _copy_plots(about, folder, with_evaluation=metrics is not None)
    with atomic_write(folder / "README.md", "w") as file:
        file.write(render_card(model, about, metrics, recipe, pictures, why_not))


def build_timm_config(model: Network) -> tuple[dict[str, Any] | None, str]:
    """Build config.json for timm; return None and the reason if timm cannot read the folder."""
    from resnext.weights.adapters.timm import to_timm

    if model.architecture.form != "grouped":
        return None, f"the weights are in form {model.architecture.form!r}; timm has form 'grouped' only"
    try:
        return to_timm(model)[1], ""
    except RequestError as error:
        return None, str(error)


def render_card(
    model: Network,
    about: ModelCardInfo,
    metrics: Mapping[str, Any] | None,
    recipe: str | None,
    pictures: list[tuple[str, str]],
    why_not_timm: str,
) -> str:
    """Render README.md: the hub's YAML block, then the text."""
    from huggingface_hub import ModelCardData

    name = about.name or model.architecture.name.partition(" (")[0]
    task = "image-classification" if model.architecture.num_classes else "image-feature-extraction"
    licence = about.licence or (about.origin.licence if about.origin and about.origin.is_certain else "other")
    data = ModelCardData(
        license=licence,
        license_name="unknown" if licence == "other" else None,
        library_name="timm" if not why_not_timm else "resnext",
        tags=[task, "resnext", *(["timm"] if not why_not_timm else [])],
        pipeline_tag=task,
        model_name=name,
        eval_results=_build_eval_results(metrics) or None,
    )
    sections = [f"# {name.rpartition('/')[2]}", _render_summary(model, about), _render_metrics(model, metrics, about)]
    sections += [_render_usage(model, about, why_not_timm)]
    sections += [f"![{caption}]({file})" for file, caption in pictures]
    if recipe is not None:
        sections.append(f"## Recipe\n\nTrained by `resnext train recipe.yaml` with:\n\n```yaml\n{recipe}```")
    sections.append(_render_licence(about))
    notes = model.provenance.get("notes") or []
    if notes:
        sections.append("## Notes\n\n" + "\n".join(f"- {_escape_line(note)}" for note in notes))
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text for text in sections if text) + "\n"


def _render_summary(model: Network, about: ModelCardInfo) -> str:
    a, p = model.architecture, model.preprocessing
    side = p.image_size if p is not None else get_default_image_size(a)
    cost = complexity(a, max(side, a.stride))
    rows = {
        "network": a.name,
        "form": a.form,
        "parameters": f"{cost.parameters:,}",
        "multiply-adds": f"{cost.macs:,} at {side}×{side}",
        "classes": f"{a.num_classes}{_preview_classes(model.classes)}" if a.num_classes else "none: pooled features",
        "preprocessing": "unknown" if p is None else _describe_view(model),
        "weights from": _describe_origin(model, about),
        "written by": f"resnext {__version__}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {_escape_line(value)} |" for key, value in rows.items())


def _render_metrics(model: Network, metrics: Mapping[str, Any] | None, about: ModelCardInfo) -> str:
    """Render measured and published errors with their protocol; empty for a network without classifier."""
    lines: list[str] = []
    if model.architecture.num_classes == 0:
        return ""
    if metrics is not None:
        low, high = metrics["top1_error_interval95"]
        top5 = metrics.get("top5_error")
        lines.append(f"top-1 error **{metrics['top1_error']:.2f} %** (95 % interval {low:.2f} to {high:.2f})")
        lines += [] if top5 is None else [f"top-5 error **{top5:.2f} %**"]
        lines.append("protocol: " + _escape_line(format_protocol(metrics["protocol"], metrics["n"])))
    origin = about.origin if about.is_unchanged else None
    if origin is not None:
        whose = "these weights" if origin.is_certain else f"{origin.name}, which these weights are likely to be"
        lines += [f"published for {whose}: {_escape_line(figure.summary_line)}" for figure in origin.figures]
        lines += [origin.note] if origin.note else []
    if not lines:
        lines = ["not measured; `resnext evaluate` measures the error on labelled images"]
    return "## Error\n\n" + "\n".join(f"- {line}" for line in lines)


def _render_usage(model: Network, about: ModelCardInfo, why_not_timm: str) -> str:
    address = f"hf://{about.name}" if about.name else "hf://OWNER/NAME"
    names_pictures = model.preprocessing is not None and model.architecture.num_classes
    predict = f"On the command line: `resnext predict {address} photo.jpg`.\n\n" if names_pictures else ""
    timm = (
        f"timm cannot read it: {_escape_line(why_not_timm)}."
        if why_not_timm
        else "timm reads it too:\n\n```python\nimport timm\n\nmodel = timm.create_model("
        f'"{address.replace("hf://", "hf-hub:")}", pretrained=True)\n```'
    )
    return (
        f'## How to use\n\n```python\nimport resnext\n\nmodel = resnext.load("{address}")  # or the path of this folder'
        "\nmodel.preprocessing, model.classes\n```\n\n"
        f"{predict}{timm}"
    )


def _render_licence(about: ModelCardInfo) -> str:
    origin = about.origin
    if about.licence is not None:
        text = f"{about.licence}."
    elif origin is not None and origin.is_certain:
        text = f"{origin.licence}, the licence of {origin.name}, from which these weights come."
    else:
        text = "The licence of these weights is unknown; ask their authors before you use them."
        if origin is not None:
            text += f" They look like {origin.name}, whose licence is {origin.licence}."
    return f"## Licence\n\n{text}"


def _build_eval_results(metrics: Mapping[str, Any] | None) -> list[Any]:
    """Build the measured accuracies for the hub's index, with the protocol as their arguments."""
    from huggingface_hub import EvalResult

    if metrics is None:
        return []
    protocol = {key: value for key, value in metrics["protocol"].items() if value is not None}
    data = _escape_line(protocol.get("data") or "images")
    values = {"top-1 accuracy": metrics["top1_error"], "top-5 accuracy": metrics.get("top5_error")}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="-".join(data.lower().split()),
            dataset_name=data,
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(1 - error / 100, 6),
            metric_args=protocol,
        )
        for name, error in values.items()
        if error is not None
    ]


def _read_metrics(about: ModelCardInfo) -> dict[str, Any] | None:
    """Read the run's evaluation of this checkpoint; None if there is none. Raises RequestError if it is damaged."""
    if about.run is None:
        return None
    path = _locate_evaluation(about) / "metrics.json"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RequestError(f"{path} is larger than an evaluation can be")
        values = json.loads(path.read_text(encoding="utf-8"))
        usable = values["protocol"]["checkpoint"] == about.checkpoint
        numbers = (values["n"], values["top1_error"], *values["top1_error_interval95"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is damaged: {type(error).__name__} {error}") from None
    if not all(isinstance(number, int | float) for number in numbers) or len(numbers) != 4:
        raise RequestError(f"{path} is damaged: its errors are not numbers")
    return values if usable else None


def _locate_evaluation(about: ModelCardInfo) -> Path:
    assert about.run is not None
    return about.run.evaluation if about.checkpoint == "best" else about.run.path / f"evaluation-{about.checkpoint}"


def _prepare_recipe(about: ModelCardInfo) -> str | None:
    """Return the run's complete recipe, with the paths of data, initial weights and copies cut to their last names."""
    if about.run is None or not about.run.recipe.exists():
        return None

    def keep_file_name(key: str, place: str) -> str:
        return place if key in ("init.weights", "distill.weights") and is_remote(place) else Path(place).name

    return dump_recipe(replace_places(read_recipe(about.run.recipe), keep_file_name))


def _copy_plots(about: ModelCardInfo, folder: Path, with_evaluation: bool) -> list[tuple[str, str]]:
    """Copy the run's curves and diagrams; plots that show images of the data set are not published."""
    if about.run is None:
        return []
    found = [(about.run.curves, "Training curves")]
    if with_evaluation:
        found += [(_locate_evaluation(about) / name, caption) for name, caption in PLOTS.items()]
    found = [(path, caption) for path, caption in found if path.is_file()]
    for path, _ in found:
        with report_write_errors(folder / path.name):
            shutil.copyfile(path, folder / path.name)
    return [(path.name, caption) for path, caption in found]


def _build_own_config(model: Network) -> dict[str, Any]:
    """Build config.json for a network that timm lacks; it is for people, as the weights file contains the same."""
    p = model.preprocessing
    about = {"architecture": model.architecture.to_dict(), "preprocessing": None if p is None else p.to_dict()}
    return {"model_type": "resnext", "resnext": about | {"classes": model.classes and list(model.classes)}}


def _describe_view(model: Network) -> str:
    p = model.preprocessing
    assert p is not None
    numbers = "; ".join(f"{name} {', '.join(f'{v:g}' for v in getattr(p, name))}" for name in ("mean", "std"))
    return f"{p.color_order} in 0..1, {format_view(p.to_dict())}; {numbers}"


def _describe_origin(model: Network, about: ModelCardInfo) -> str:
    source = model.provenance.get("source")
    source = source if isinstance(source, Mapping) else {}
    step, epoch = model.provenance.get("step"), model.provenance.get("epoch")
    if about.run is not None:
        start = model.provenance.get("init")
        begun = f", initialised from {start.get('weights')}" if isinstance(start, Mapping) else ""
        return f"a run of `resnext train`{begun}, checkpoint {about.checkpoint} (epoch {epoch}, step {step})"
    where = source.get("hub") or source.get("url") or source.get("file") or "unknown"
    digest = f", SHA-256 {source['sha256']}" if source.get("sha256") else ""
    return f"{where} ({source.get('format') or 'unknown format'}{digest})"


def _preview_classes(classes: tuple[str, ...] | None) -> str:
    if not classes:
        return ""
    return f": {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"


def _escape_line(value: Any) -> str:
    """Escape text for one line of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
