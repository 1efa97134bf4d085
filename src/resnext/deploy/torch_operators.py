"""The operators that a .pt2 file may have: those that ``resnext export`` writes, with the kinds of their arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Operator:
    """An operator of a file.

    Kinds of arguments are tensor, tensors (a list, where None is allowed), int, ints, positive (ints of at least 1),
    bool, dtype and float; a kind with ``?`` may be None. Arguments that are not listed are refused.
    """

    function: Callable[..., Any]
    arguments: dict[str, str]

    @property
    def is_number(self) -> bool:
        """Whether the result is a whole number, not a tensor."""
        return self.function in (_get_length, _get_item)


def _parse(function: Callable[..., Any], arguments: str) -> Operator:
    return Operator(function, dict(pair.split(":") for pair in arguments.split(" ")))


def _get_length(self: Tensor, dim: int) -> int:
    return self.shape[dim]


def _get_item(self: Tensor) -> int:
    return int(self.item())


WINDOW = "stride:positive padding:ints dilation:positive"
OPERATORS = {
    "torch.ops.aten." + name: _parse(function, arguments)
    for name, function, arguments in (
        ("conv2d.default", aten.conv2d.default, f"input:tensor weight:tensor bias:tensor? {WINDOW} groups:positive"),
        ("max_pool2d.default", aten.max_pool2d.default, f"self:tensor kernel_size:positive {WINDOW}"),
        ("linear.default", aten.linear.default, "input:tensor weight:tensor bias:tensor?"),
        ("mean.dim", aten.mean.dim, "self:tensor dim:ints"),
        ("softmax.int", aten.softmax.int, "self:tensor dim:int"),
        ("relu.default", aten.relu.default, "self:tensor"),
        ("slice.Tensor", aten.slice.Tensor, "self:tensor dim:int start:int end:int step:positive"),
        ("constant_pad_nd.default", aten.constant_pad_nd.default, "self:tensor pad:ints value:float"),
        ("permute.default", aten.permute.default, "self:tensor dims:ints"),
        ("to.dtype", aten.to.dtype, "self:tensor dtype:dtype"),
        ("index.Tensor", aten.index.Tensor, "self:tensor indices:tensors"),
        ("narrow.default", aten.narrow.default, "self:tensor dim:int start:int length:int"),
        ("arange.default", aten.arange.default, "end:int"),
        ("scalar_tensor.default", aten.scalar_tensor.default, "s:int dtype:dtype"),
        ("stack.default", aten.stack.default, "tensors:tensors"),
        ("sum.dim_IntList", aten.sum.dim_IntList, "self:tensor dim:ints keepdim:bool"),
        ("matmul.default", aten.matmul.default, "self:tensor other:tensor"),
        ("where.self", aten.where.self, "condition:tensor self:tensor other:tensor"),
        ("sym_size.int", _get_length, "self:tensor dim:int"),
        ("item.default", _get_item, "self:tensor"),
        *((f"{name}.default", getattr(aten, name).default, "self:tensor") for name in ("reciprocal", "abs", "floor")),
        *((f"{name}.Tensor", getattr(aten, name).Tensor, "self:tensor other:tensor") for name in ("add", "sub", "mul")),
        *((f"{name}.Tensor", getattr(aten, name).Tensor, "self:tensor other:tensor") for name in ("lt", "le", "eq")),
        *(
            (f"{name}.default", getattr(aten, name).default, "self:tensor other:tensor")
            for name in ("maximum", "minimum", "floor_divide")
        ),
    )
}

# operators of which torch.export makes checks of sizes; they compute no output and are never run
CHECKS = {
    *(f"torch.ops.aten.{name}.default" for name in ("_assert_tensor_metadata", "_assert_scalar")),
    *(f"torch.ops.aten.{name}.default" for name in ("sym_constrain_range", "sym_constrain_range_for_size")),
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg")),
    *(f"_operator.{name}" for name in ("lt", "le", "eq", "ne", "ge", "gt", "and_", "or_")),
    *("torch.sym_min", "torch.sym_max", "torch.sym_not"),
}

DTYPES = {  # by torch.export's number
    1: torch.uint8,
    4: torch.int32,
    5: torch.int64,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
}
