"""`torch.compile` around and within nets: what runs as it is written.

Compiled nets have no second derivatives, which gradients of log-determinants need: within a block
that is not compiled they run as they are written. Compiled blocks contain these derivatives. Roots
and series are never compiled: every step of them depends on numbers.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from impflow_zoo.numerics.modes import is_compiling

__all__ = ["as_written", "not_compiled", "uncompiled", "unwrapped"]

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as it is written, also where `torch.compile` compiles its caller.

    `torch.compiler.disable` as a decorator would import the compiler, which takes a second.
    """

    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_compiling():
            disabled: Callable[P, R] = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return plain


def not_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """A function that finds within `torch.compile` that it has to run as it is written.

    Raises:
        RuntimeError: within `torch.export`, whose programs hold nothing but operations of torch.
    """
    if torch.compiler.is_exporting():
        raise RuntimeError(
            "torch.export writes down no roots and no series: export a residual flow with exact "
            "log-determinants, or the `encode` of one"
        )
    return uncompiled(function)


def unwrapped(net: Any) -> Any:
    """A net without the module that `torch.compile(net)` puts around it."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        return net
    from torch._dynamo import OptimizedModule

    return net._orig_mod if isinstance(net, OptimizedModule) else net


def as_written(net: Any) -> Any:
    """A net without what `torch.compile` has made of it and of its parts.

    Modules that hold compiled code are replaced by others with the same tensors and attributes. The
    compiler has a switch for this, but only one for all threads.
    """
    if "torch._dynamo" not in sys.modules:
        return net
    if isinstance(net, nn.Module):
        return _module_as_written(net, {})
    return getattr(net, "_torchdynamo_orig_callable", net)


def _module_as_written(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    module = unwrapped(module)
    if module in twins:
        return twins[module]
    twins[module] = module
    parts = {
        name: None if part is None else _module_as_written(part, twins)
        for name, part in module._modules.items()
    }
    forward = getattr(module.forward, "_torchdynamo_orig_callable", None)
    whole = all(part is module._modules[name] for name, part in parts.items())
    if whole and forward is None and module._compiled_call_impl is None:
        return module
    twin: nn.Module = object.__new__(type(module))
    vars(twin).update(vars(module), _modules=parts, _compiled_call_impl=None)
    if forward is not None:
        bound = inspect.ismethod(forward)
        vars(twin)["forward"] = forward if bound else types.MethodType(forward, twin)
    twins[module] = twin
    return twin
