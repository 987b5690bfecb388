"""Deformable convolution of any rank: what the public functions of each rank share.

A tap of the kernel reads the input not on the grid but at `base + offset`, by linear interpolation
between the neighbouring pixels, times an optional mask:

    p = q * stride - padding + tap * dilation + offset          (pixels)
    y[q] = bias + sum over channels and taps of  weight * mask * sample(input, p)

The output is linear in input, weight, mask and bias, and within a cell of the grid affine in every
coordinate; its derivatives are made of the same sampling with one or two axes differentiated. Each
function checks everything, then hands plain arrays to a backend, which knows the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pydeform._arrays import NumpyArray
from pydeform._shapes import ConvGeometry
from pydeform.ops import _call, _checks
from pydeform.ops._call import Arrays, Rules
from pydeform.ops._checks import ARGUMENTS, Options
from pydeform.ops._outputs import Wanted

T = TypeVar("T")
Values: TypeAlias = tuple[Any, Any, Any, Any, Any]  # in the order of ARGUMENTS


class DeformConvGrads(NamedTuple, Generic[T]):
    """Gradients of a deformable convolution; None where the argument is absent or not needed."""

    input: T | None
    offset: T | None
    weight: T | None
    bias: T | None
    mask: T | None


class DeformConvDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of a deformable convolution; None where absent or not needed."""

    grad_output: T | None
    input: T | None
    offset: T | None
    weight: T | None
    bias: T | None
    mask: T | None


class _Options(NamedTuple):
    rank: int
    options: Options
    deterministic: bool = True


class _Plan(NamedTuple):
    geometry: ConvGeometry
    output: Wanted
    deterministic: bool


def _plan(arrays: Arrays, accepted: Sequence[str], options: _Options) -> _Plan:
    """Check arrays and options; `options` are what the caller chose."""
    _checks.check_dtypes(arrays, accepted)
    geometry = _checks.geometry_of(options.rank, arrays, options.options)
    output = Wanted(_checks.output_shape(geometry), arrays["input"].dtype)
    return _Plan(geometry, output, options.deterministic)


def _read(arrays: Arrays, *names: str) -> tuple[NumpyArray | None, ...]:
    return tuple(map(arrays.get, names))


def _forward(backend: Any, plan: _Plan, arrays: Arrays, results: dict[str, NumpyArray]) -> None:
    backend.deform_conv(plan.geometry, *_read(arrays, *ARGUMENTS), results["out"])


def _backward(
    backend: Any, plan: _Plan, ybar: NumpyArray, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    backend.deform_conv_backward(
        plan.geometry,
        ybar,
        *_read(arrays, "input", "offset", "weight", "mask"),
        _read(results, *ARGUMENTS),
        plan.deterministic,
    )


def _jvp(
    backend: Any, plan: _Plan, tangents: Arrays, arrays: Arrays, results: dict[str, NumpyArray]
) -> None:
    backend.deform_conv_jvp(
        plan.geometry,
        *_read(arrays, *ARGUMENTS),
        _read(tangents, *ARGUMENTS),
        *_read(results, "output", "output_tangent"),
    )


def _double_backward(
    backend: Any,
    plan: _Plan,
    grad_grads: Arrays,
    ybar: NumpyArray,
    arrays: Arrays,
    results: dict[str, NumpyArray],
) -> None:
    if "bias" in results:
        results["bias"][...] = 0  # no gradient depends on the bias
    backend.deform_conv_double_backward(
        plan.geometry,
        _read(grad_grads, *ARGUMENTS),
        ybar,
        *_read(arrays, "input", "offset", "weight", "mask"),
        _read(results, "grad_output", "input", "offset", "weight", "mask"),
    )


_RULES = Rules(
    arguments=ARGUMENTS,
    required=("input", "weight"),
    like="input",
    plan=_plan,
    forward=_forward,
    backward=_backward,
    jvp=_jvp,
    double_backward=_double_backward,
    grads=DeformConvGrads,
    double_grads=DeformConvDoubleGrads,
)


def _named(values: Values) -> dict[str, Any]:
    return dict(zip(ARGUMENTS, values, strict=True))


def deform_conv(rank: int, values: Values, options: Options, out: Any) -> Any:
    """Return the output; `values` are input, offset, weight, bias and mask, None where absent."""
    return _call.forward(_RULES, _named(values), _Options(rank, options), out)


def deform_conv_backward(
    rank: int,
    grad_output: Any,
    values: Values,
    options: Options,
    needs: Iterable[str] | None,
    deterministic: bool,
    out: Mapping[str, Any] | None,
) -> DeformConvGrads[Any]:
    """Return the gradients of <grad_output, output> by the arguments named in `needs`."""
    if not isinstance(deterministic, bool):
        raise TypeError(f"deterministic: expected True or False, got {deterministic!r}")
    chosen = _Options(rank, options, deterministic)
    return _call.backward(  # type: ignore[no-any-return]
        _RULES, grad_output, _named(values), chosen, needs, out
    )


def deform_conv_jvp(
    rank: int,
    values: Values,
    options: Options,
    tangents: Mapping[str, Any],
    out: Mapping[str, Any] | None,
) -> tuple[Any, Any]:
    """Return the output and its derivative along the tangents."""
    return _call.jvp(_RULES, _named(values), _Options(rank, options), tangents, out)


def deform_conv_double_backward(
    rank: int,
    grad_grads: Mapping[str, Any],
    grad_output: Any,
    values: Values,
    options: Options,
    needs: Iterable[str] | None,
    out: Mapping[str, Any] | None,
) -> DeformConvDoubleGrads[Any]:
    """Return the gradients of the sum over names of <grad_grads[name], gradient of name>."""
    return _call.double_backward(  # type: ignore[no-any-return]
        _RULES, grad_grads, grad_output, _named(values), _Options(rank, options), needs, out
    )
