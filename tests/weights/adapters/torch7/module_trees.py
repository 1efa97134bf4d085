"""Module trees as models/resnext.lua builds them, and a plain interpreter that computes what Torch7 would."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.weights.readers.torch7_writer import Object, Storage, make_tensor


class TreeBuilder:
    """Builds trees with random weights; ``names`` is the package of the layers: nn or cudnn."""

    def __init__(self, seed: int = 0, names: str = "cudnn", bn: str = "nn") -> None:
        self.random, self.names, self.bn_names = np.random.default_rng(seed), names, bn

    def draw(self, *shape: int, low: float = -1.0) -> Any:
        return make_tensor(self.random.uniform(low, 1.0, shape).astype("f4"))

    def conv(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False) -> Object:
        fields = {"nInputPlane": into, "nOutputPlane": out, "kW": kernel, "kH": kernel, "dW": stride, "dH": stride}
        fields |= {"padW": kernel // 2, "padH": kernel // 2, "train": True, "gradWeight": self.draw(1)}
        fields["weight"] = self.draw(out, into // groups, kernel, kernel)
        if groups > 1:
            fields["groups"] = groups
        if bias:
            fields["bias"] = self.draw(out)
        return Object(f"{self.names}.SpatialConvolution", fields)

    def bn(self, channels: int, eps: float = 1e-5) -> Object:
        fields = {"eps": eps, "momentum": 0.1, "affine": True, "running_mean": self.draw(channels)}
        fields |= {"running_var": self.draw(channels, low=0.2), "weight": self.draw(channels, low=0.2)}
        return Object(f"{self.bn_names}.SpatialBatchNormalization", fields | {"bias": self.draw(channels)}, 2)

    def unit(self, *arguments: Any, relu: bool = True, **options: Any) -> list[Object]:
        conv = self.conv(*arguments, **options)
        return [conv, self.bn(conv.fields["nOutputPlane"]), *([self.relu()] if relu else [])]

    def relu(self) -> Object:
        threshold = {"threshold": 0.0, "val": 0.0} if self.names == "nn" else {}
        return Object(f"{self.names}.ReLU", {"inplace": True} | threshold)

    def shortcut(self, kind: str, into: int, out: int, stride: int) -> Object:
        if kind == "C" or (kind == "B" and into != out):
            return make_sequential(*self.unit(into, out, 1, stride, relu=False))
        if into != out:
            pool = Object("nn.SpatialAveragePooling", _window("k", 1) | _window("d", stride) | {"divide": True})
            zeros = Object("nn.MulConstant", {"constant_scalar": 0.0, "inplace": False})
            return make_sequential(pool, make_container("nn.Concat", Object("nn.Identity"), zeros, dimension=2))
        return Object("nn.Identity")

    def block(self, kind: str, into: int, d: int, cardinality: int, out: int, stride: int, **options: Any) -> Object:
        """``kind``: "B", "C", "1x1" (as C, the stride in the first 1x1), "basic" or "basic B"."""
        way, bias = options.get("shortcut", "B"), options.get("bias", False)
        width = d * cardinality
        if kind == "basic":
            branch = [*self.unit(into, width, 3, stride, bias=bias), *self.unit(width, out, 3, relu=False)]
        elif kind in ("B", "basic B"):
            one = [(into, d, 3, stride)] if kind == "basic B" else [(into, d, 1), (d, d, 3, stride)]
            paths = (make_sequential(*(u for a in one for u in self.unit(*a, bias=bias))) for _ in range(cardinality))
            joined = [
                make_container("nn.ConcatTable", *paths),
                Object("nn.JoinTable", {"dimension": 2, "size": Storage("Long", [])}),
            ]
            branch = [*joined, *self.unit(width, out, 3 if kind == "basic B" else 1, relu=False, bias=bias)]
        else:
            first, second = (stride, 1) if kind == "1x1" else (1, stride)
            branch = [
                *self.unit(into, width, 1, first),
                *self.unit(width, width, 3, second, groups=cardinality, bias=bias),
            ]
            branch += self.unit(width, out, 1, relu=False, bias=bias)
        both = make_container("nn.ConcatTable", make_sequential(*branch), self.shortcut(way, into, out, stride))
        return make_sequential(both, Object("nn.CAddTable", {"inplace": True}), self.relu())

    def network(
        self, kind: str = "C", stem: str = "cifar", blocks: tuple[int, ...] = (1, 2), classes: int = 10, **options: Any
    ) -> Object:
        """A network of 4 channels in the stem and paths of 2 channels in the first stage."""
        cardinality = 1 if kind == "basic" else options.pop("cardinality", 2)
        grow = options.pop("grow", 2 if options.get("shortcut") == "A" else 4)
        channels, d, out = 4, 2, 4 * (1 if "basic" in kind or options.get("shortcut") == "A" else grow)
        layers = self.unit(3, 4, 7, 2) if stem == "imagenet" else self.unit(3, 4, 3, 1, bias=options.get("bias", False))
        if stem == "imagenet":
            layers.append(Object("nn.SpatialMaxPooling", _window("k", 3) | _window("d", 2) | _window("pad", 1)))
        for stage, count in enumerate(blocks):
            made = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                made.append(self.block(kind, channels, d, cardinality, out, stride, **options))
                channels = out
            layers.append(make_sequential(*made))
            d, out = 2 * d, 2 * out
        window = (32 if stem == "cifar" else 56) // 2 ** (len(blocks) - 1)
        layers.append(Object(f"{self.names}.SpatialAveragePooling", _window("k", window) | _window("d", 1)))
        layers.append(
            Object("nn.View", {"size": Storage("Long", [channels]), "numElements": channels, "numInputDims": 3})
        )
        layers.append(Object("nn.Linear", {"weight": self.draw(classes, channels), "bias": self.draw(classes)}))
        return make_sequential(*layers)


def make_container(name: str, *modules: Object, **fields: Any) -> Object:
    return Object(name, fields | {"modules": dict(enumerate(modules, start=1)), "train": True})


def make_sequential(*modules: Object) -> Object:
    return make_container("nn.Sequential", *modules)


def list_modules(tree: Object) -> list[Object]:
    """All modules of a tree, in order."""
    found = [tree]
    for module in tree.fields.get("modules", {}).values():
        found += list_modules(module)
    return found


def find_modules(tree: Object, end: str) -> list[Object]:
    """Those whose class name ends so."""
    return [module for module in list_modules(tree) if module.class_name.endswith(end)]


def run_tree(tree: Object, x: Any) -> Any:
    """What the tree computes in evaluation, in double, layer by layer from its own fields."""
    name, f = tree.class_name.partition(".")[2], tree.fields
    if name == "Sequential":
        for module in f["modules"].values():
            x = run_tree(module, x)
        return x
    if name == "DataParallelTable":
        return run_tree(f["modules"][1], x)
    if name == "ConcatTable":
        return [run_tree(module, x) for module in f["modules"].values()]
    if name == "Concat":
        return torch.cat([run_tree(module, x) for module in f["modules"].values()], 1)
    if name == "CAddTable":
        return sum(x[1:], x[0])
    if name == "JoinTable":
        return torch.cat(x, 1)
    return _layer(name, tree, x)


def _layer(name: str, tree: Object, x: Tensor) -> Tensor:
    f = tree.fields
    if name in ("SpatialConvolution", "SpatialConvolutionMM"):
        weight = to_tensor(f["weight"]).reshape(int(f["nOutputPlane"]), -1, int(f["kH"]), int(f["kW"]))
        bias = to_tensor(f["bias"]) if "bias" in f else None
        pad = f.get("padding", f.get("padH"))
        return F.conv2d(x, weight, bias, stride=int(f["dH"]), padding=int(pad), groups=int(f.get("groups", 1)))
    if name == "SpatialBatchNormalization":
        scale = to_tensor(f["running_std"]) if "running_std" in f else (to_tensor(f["running_var"]) + f["eps"]) ** -0.5
        y = (x - _map(to_tensor(f["running_mean"]))) * _map(scale)
        return y * _map(to_tensor(f["weight"])) + _map(to_tensor(f["bias"])) if "weight" in f else y
    if name in ("ReLU", "Threshold"):
        return x.relu()
    if name == "SpatialMaxPooling":
        return F.max_pool2d(x, int(f["kW"]), int(f["dW"]), int(f["padW"]))
    if name == "SpatialAveragePooling":
        return F.avg_pool2d(x, int(f["kW"]), int(f["dW"]))
    if name == "Linear":
        return F.linear(x, to_tensor(f["weight"]), to_tensor(f["bias"]) if "bias" in f else None)
    if name in ("View", "Reshape"):
        return x.flatten(1)
    return {"MulConstant": lambda: 0 * x, "Identity": lambda: x, "LogSoftMax": lambda: x.log_softmax(1)}[name]()


def to_tensor(written: Any) -> Tensor:
    return torch.from_numpy(np.asarray(written.storage.values, "f8").reshape(written.sizes))


def _map(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _window(name: str, size: int) -> dict[str, int]:
    return {f"{name}W": size, f"{name}H": size}
