"""Change the classes, input channels, stride position or form of a network before it is built."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resnext.data.imagenet_classes import imagenet_synsets, is_imagenet_classes
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.model.architecture import Form
from resnext.model.forms import convert_state
from resnext.weights.network_spec import NetworkSpec


def modify(
    spec: NetworkSpec,
    *,
    form: Form | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    in_channels: int | None = None,
    stride_in_1x1: bool | None = None,
    output_stride: int | None = None,
    seed: int = 0,
) -> NetworkSpec:
    """Apply all requested changes, in the order strides, stem, head, form. None means no change."""
    changed = change_output_stride(change_stride(spec, stride_in_1x1), output_stride)
    changed = change_stem(changed, in_channels)
    return change_form(change_head(changed, num_classes, classes, seed=seed), form)


def change_stride(spec: NetworkSpec, stride_in_1x1: bool | None) -> NetworkSpec:
    """Put the stride of the bottlenecks in the first 1x1 or in the 3x3. The weights stay the same."""
    if stride_in_1x1 is None or stride_in_1x1 == spec.architecture.stride_in_1x1:
        return spec
    return _add_note(
        spec,
        f"the stride of the blocks is in the {'first 1x1' if stride_in_1x1 else '3x3'}, as requested",
        architecture=spec.architecture.change(stride_in_1x1=stride_in_1x1),
    )


def change_output_stride(spec: NetworkSpec, output_stride: int | None) -> NetworkSpec:
    """Turn the strides beyond ``output_stride`` into dilations. The weights stay the same."""
    if output_stride in (None, spec.architecture.stride):
        return spec
    return _add_note(
        spec,
        f"the total stride is {output_stride}, as requested: later strides became dilations",
        architecture=spec.architecture.change(output_stride=output_stride),
    )


def change_head(
    spec: NetworkSpec, num_classes: int | None = None, classes: Sequence[str] | None = None, *, seed: int = 0
) -> NetworkSpec:
    """Replace the classifier by one with ``num_classes`` outputs (0: none) or one output for each of ``classes``.

    A class that both networks know by name (for ImageNet also by synset) keeps its row of fc; all other rows are
    initialized from ``seed``. If the file has no class names and as many outputs, ``classes`` only sets the names.
    """
    if classes is not None and num_classes not in (None, len(classes)):
        raise RequestError(f"{len(classes)} class names were given for {num_classes} classes")
    wanted = num_classes if classes is None else len(classes)
    names, known = None if classes is None else tuple(classes), spec.classes
    had = spec.architecture.num_classes
    if wanted is None or (wanted == had and names in (None, known)):
        return spec
    if wanted == 0:
        return _remove_head(spec)
    if wanted == had and known is None:
        return _add_note(spec, f"the {had} outputs got the given class names; the file had none", classes=names)
    return _replace_head(spec, wanted, names, seed)


def change_stem(spec: NetworkSpec, in_channels: int | None) -> NetworkSpec:
    """Change conv1 to ``in_channels`` input channels, and the preprocessing with it.

    For one channel, the filters are summed over their input channels: a gray image gives the same output as its RGB
    copy did. For more channels, the filters are repeated in turn and scaled by old/new, which keeps their sum.
    """
    had = spec.architecture.in_channels
    if in_channels is None or in_channels == had:
        return spec
    architecture = spec.architecture.change(in_channels=in_channels)
    weight = _get_tensor(spec, "conv1.weight", (None, had, None, None))
    if in_channels == 1:
        changed, how = weight.sum(1, keepdim=True), "summed over its input channels"
    else:
        turn = torch.arange(in_channels) % had
        changed = weight[:, turn] * (had / in_channels)
        how = f"its {had} input channels repeated in turn, times {had}/{in_channels}"
    preprocessing, remark = _adapt_preprocessing(spec.preprocessing, in_channels)
    return _add_note(
        spec,
        f"conv1 was changed from {had} to {in_channels} input channels: {how}{remark}",
        architecture=architecture,
        state=dict(spec.state) | {"conv1.weight": changed.contiguous()},
        preprocessing=preprocessing,
        provenance=_record_change(spec, in_channels=[had, in_channels]),
    )


def change_form(spec: NetworkSpec, form: Form | None) -> NetworkSpec:
    """Convert the network to another form of Figure 3, which computes the same function."""
    had = spec.architecture.form
    if form is None or form == had:
        return spec
    return _add_note(
        spec,
        f"form {had!r} was rewritten as form {form!r}, which computes the same",
        architecture=spec.architecture.change(form=form),
        state=convert_state(spec.state, spec.architecture, form),
    )


def _remove_head(spec: NetworkSpec) -> NetworkSpec:
    return _add_note(
        spec,
        f"the head of {spec.architecture.num_classes} classes was removed: the output is the pooled features",
        architecture=spec.architecture.change(num_classes=0),
        state={name: tensor for name, tensor in spec.state.items() if not name.startswith("fc.")},
        classes=None,
        provenance=_record_change(spec, num_classes=[spec.architecture.num_classes, 0]),
    )


def _replace_head(spec: NetworkSpec, wanted: int, names: tuple[str, ...] | None, seed: int) -> NetworkSpec:
    """Replace the head by one of ``wanted`` rows: rows of classes known by name are kept, the others are new."""
    had, width = spec.architecture.num_classes, spec.architecture.stages[-1].out_channels
    architecture = spec.architecture.change(num_classes=wanted)  # raises for an invalid number
    generator, bound = torch.Generator().manual_seed(seed), width**-0.5  # as in ``model/initialise.py``
    weight = torch.empty(wanted, width).uniform_(-bound, bound, generator=generator)
    bias = torch.zeros(wanted)
    kept = match_classes(spec.classes or (), names or ())
    if had and kept:
        old_weight, old_bias = _get_tensor(spec, "fc.weight", (had, width)), _get_tensor(spec, "fc.bias", (had,))
        rows, of = torch.tensor(list(kept)), torch.tensor(list(kept.values()))
        weight[rows], bias[rows] = old_weight[of].to(weight.dtype), old_bias[of].to(bias.dtype)
    return _add_note(
        spec,
        _describe_head_change(had, wanted, len(kept), seed),
        architecture=architecture,
        state=dict(spec.state) | {"fc.weight": weight, "fc.bias": bias},
        classes=names,
        provenance=_record_change(spec, num_classes=[had, wanted], kept_classes=len(kept)),
    )


def match_classes(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Map each new row to the old row of the same class; ``new`` may be synsets if ``old`` are ImageNet's classes."""
    synsets = imagenet_synsets()
    is_synsets = new and set(new) <= set(synsets) and is_imagenet_classes(tuple(old))
    return match_names(synsets if is_synsets else old, new)


def match_names(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Map each new row to the old row of the same name. A repeated name (ImageNet's crane) is matched in order."""
    places: dict[str, list[int]] = {}
    for index in reversed(range(len(old))):
        places.setdefault(old[index], []).append(index)
    return {index: places[name].pop() for index, name in enumerate(new) if places.get(name)}


def _describe_head_change(had: int, wanted: int, kept: int, seed: int) -> str:
    before = f"the head of {had} classes became one of {wanted}" if had else f"a head of {wanted} classes was added"
    if kept in (0, wanted):
        return f"{before}: all rows " + ("were kept by name" if kept else f"are newly initialized (seed {seed})")
    return f"{before}: {kept} rows were kept by name, {wanted - kept} are newly initialized (seed {seed})"


def _adapt_preprocessing(given: Preprocessing | None, channels: int) -> tuple[Preprocessing | None, str]:
    """Convert the preprocessing to ``channels`` channels; also return a remark for the note."""
    if given is None:
        return None, ""
    if channels == 1:
        mean, std = (sum(values) / len(values) for values in (given.mean, given.std))
        return replace(given, channels=1, mean=(mean,), std=(std,)), "; its mean and std are averages of the old ones"
    if channels == 3 and given.channels == 1:
        return replace(given, channels=3, mean=given.mean * 3, std=given.std * 3), ""
    return None, f"; the preprocessing was removed, as images have 1 or 3 channels, not {channels}"


def _get_tensor(spec: NetworkSpec, name: str, shape: tuple[int | None, ...]) -> Tensor:
    """Get a tensor and check that it has floats of this shape (None: any size)."""
    tensor = spec.state.get(name)
    if tensor is None:
        raise RequestError(f"{name} is missing")
    right = tensor.dim() == len(shape) and all(want in (None, n) for n, want in zip(tensor.shape, shape, strict=True))
    if not right or not tensor.is_floating_point():
        expected = ", ".join("any" if want is None else str(want) for want in shape)
        raise RequestError(f"{name} is {tensor.dtype} of shape {list(tensor.shape)}; expected floats of [{expected}]")
    return tensor


def _record_change(spec: NetworkSpec, **what: Any) -> dict[str, Any]:
    """Record a change in the provenance: errors published for the file do not apply to the changed network."""
    before = spec.provenance.get("changed")
    return spec.provenance | {"changed": (dict(before) if isinstance(before, Mapping) else {}) | what}


def _add_note(spec: NetworkSpec, note: str, **changes: Any) -> NetworkSpec:
    return replace(spec, notes=(*spec.notes, note), **changes)
