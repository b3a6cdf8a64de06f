"""Kinds: what class of value a recorded operation gives, as far as its name tells."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.distributions import Distribution

#: Attributes of tensors that are no tensors.
ATTRIBUTES: Mapping[str, type] = {
    **{"shape": torch.Size, "dtype": torch.dtype, "device": torch.device, "ndim": int},
    **dict.fromkeys(("is_cuda", "is_sparse", "is_quantized", "requires_grad", "is_leaf"), bool),
    **dict.fromkeys(("is_meta", "is_cpu", "is_mps", "is_nested"), bool),
    **{"itemsize": int, "nbytes": int, "layout": torch.layout},
}
METHODS: Mapping[str, type] = {
    **dict.fromkeys(("dim", "ndimension", "numel", "nelement", "element_size"), int),
    **dict.fromkeys(("is_floating_point", "is_complex", "is_contiguous", "is_signed"), bool),
    **dict.fromkeys(("split", "chunk", "unbind", "tensor_split", "split_with_sizes"), tuple),
    **dict.fromkeys(("hsplit", "vsplit", "dsplit", "meshgrid", "broadcast_tensors"), tuple),
}
#: Functions of torch that may give several tensors by name, as ``x.max(1).values``.
SEVERAL = frozenset(
    {
        *("max", "min", "sort", "topk", "kthvalue", "median", "nanmedian", "mode", "cummax"),
        *("cummin", "aminmax", "svd", "qr", "slogdet", "lu", "eigh", "eig", "linalg_svd"),
        *("linalg_qr", "linalg_eigh", "linalg_slogdet", "unique", "unique_consecutive", "std_mean"),
        *("var_mean", "frexp", "geqrf", "triangular_solve", "lobpcg", "histogram", "item"),
        *("tolist", "__call__", "multi_head_attention_forward", "stride", "get_device", "type"),
        *("equal", "allclose", "is_nonzero", "data_ptr", "storage_offset", "numpy"),
    }
)
SEVERAL_MODULES = (
    *(nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.AdaptiveLogSoftmaxWithLoss),
    *(nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.Identity),
)
#: Operators by which plain values make plain ones.
ARITHMETIC = frozenset({"add", "sub", "mul", "floordiv", "mod", "pow", "neg", "pos"})
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "not_"})
PLAIN = (int, float, bool, torch.Size, tuple)


def kind_of(node: fx.Node) -> type | None:
    """The class of a node's value, or ``None`` where its operation does not tell."""
    if "kind" not in node.meta:
        node.meta["kind"] = _find(node)
    found: type | None = node.meta["kind"]
    return found


def _find(node: fx.Node) -> type | None:
    match node.op:
        case "call_method":
            return _of_method(node)
        case "call_function":
            return _of_function(node)
    return None


def kind_of_module(module: nn.Module) -> type | None:
    """The class of what one of torch's own layers gives, or ``None`` for all others."""
    torchs = type(module).__module__.startswith("torch.nn.modules")
    several = isinstance(module, SEVERAL_MODULES) or getattr(module, "return_indices", False)
    return Tensor if torchs and not several else None


def _of_method(node: fx.Node) -> type | None:
    name = str(node.target)
    if name == "size":
        return int if len(node.args) > 1 or node.kwargs else torch.Size
    if name in METHODS:
        return METHODS[name]
    return None if name in SEVERAL or not hasattr(Tensor, name) else Tensor


def _of_function(node: fx.Node) -> type | None:
    target: Any = node.target
    name = getattr(target, "__name__", "")
    if target is len:
        return int
    if target is getattr:
        return ATTRIBUTES.get(str(node.args[1]))
    module = getattr(target, "__module__", None) or ""
    if module in {"_operator", "operator"}:
        return _of_operator(target, name, node)
    if not module.startswith("torch") and not isinstance(target, type(torch.add)):
        return None
    if isinstance(target, type):
        return target if issubclass(target, Distribution) else None
    other = module == "torch.nn.utils.rnn" or name in SEVERAL  # as packed sequences are
    return METHODS.get(name, None if other else Tensor)


def _of_operator(target: Callable[..., Any], name: str, node: fx.Node) -> type | None:
    kinds = [kind_of(arg) if isinstance(arg, fx.Node) else type(arg) for arg in node.args]
    if target is operator.getitem:
        return _of_item(kinds[0], node)
    if Tensor in kinds:
        return Tensor
    return _of_plain(name, kinds) if all(kind in PLAIN for kind in kinds) else None


def _of_plain(name: str, kinds: list[type | None]) -> type | None:
    if name in COMPARISONS:
        return bool
    if torch.Size in kinds or tuple in kinds:
        return tuple
    if name == "truediv" or float in kinds:
        return float
    return int if name in ARITHMETIC else None


def _of_item(kind: type | None, node: fx.Node) -> type | None:
    if kind is torch.Size:
        return torch.Size if isinstance(node.args[1], slice) else int
    return Tensor if kind is Tensor else None
