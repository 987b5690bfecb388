"""The operations of pydeform as the recipes call them: the one place where they meet the tape.

On ordinary arrays each is the public function of its name. With a traced argument it is computed on
the values, and the tape keeps the function's `_backward`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any

from pydeform._arrays import NumpyArray
from pydeform.recipes._adjoints import Ruled
from pydeform.recipes._tape import Traced, apply


def _rule(
    *values: Any, module: Any, function: str, names: tuple[str, ...], others: dict[str, Any]
) -> Ruled:
    """Compute a public function of arrays by name; its `_backward` is the rule."""
    arguments = {**dict(zip(names, values, strict=True)), **others}

    def pullback(grad: NumpyArray) -> tuple[Any, ...]:
        grads = getattr(module, f"{function}_backward")(
            grad.astype(output.dtype, copy=False), **arguments, needs=names
        )
        return tuple(getattr(grads, name) for name in names)

    output = getattr(module, function)(**arguments)
    return output, pullback


def _primitive(name: str, folder: str = "pydeform.ops") -> Callable[..., Any]:
    """Return the public function of this name, for arrays of any kind and for traced ones."""

    def call(*args: Any, **options: Any) -> Any:
        module = import_module(folder)
        function = getattr(module, name)
        if not any(isinstance(x, Traced) for x in (*args, *options.values())):
            return function(*args, **options)
        given = signature(function).bind(*args, **options).arguments
        traced = {key: x for key, x in given.items() if isinstance(x, Traced)}
        others = {key: x for key, x in given.items() if key not in traced}
        kept = {"module": module, "function": name, "names": tuple(traced), "others": others}
        return apply(_rule, *traced.values(), **kept)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Return `pydeform.{name}` of the arguments."
    return call


deform_conv1d = _primitive("deform_conv1d")
deform_conv2d = _primitive("deform_conv2d")
deform_conv3d = _primitive("deform_conv3d")
local_conv1d = _primitive("local_conv1d")
local_conv2d = _primitive("local_conv2d")
local_conv3d = _primitive("local_conv3d")
mix_kernels = _primitive("mix_kernels")
sample = _primitive("sample")
splat = _primitive("splat")
scale_taps = _primitive("scale_taps", "pydeform.ops.offsets")
cumulative_taps = _primitive("cumulative_taps", "pydeform.ops.offsets")
static_offsets = _primitive("static_offsets", "pydeform.ops.offsets")
