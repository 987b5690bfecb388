"""How far floating point may be from the truth: a-priori bounds for every result of a case.

For a result y of a sum of products, computed in any order with unit roundoff u and stored with
u_out,

    |computed - y| <= gamma_k Lambda (1 + u_out) + u_out |y|,     gamma_k = k u / (1 - k u)

where Lambda is the same operation on absolute values, and k counts the roundings on the longest
way from an input to the result. With c_n = 2^n + 2n - 1 for one sample (n fractions 1 - f, n - 1
products of them, one by the pixel, 2^n - 1 sums; more corners where a kink takes the mean of two
slopes), what comes on top is counted in `_Counts`, one line per result.

The bound takes the coordinates in split form, offset = floor(offset) + f. There f is exact but for
small negative offsets, where the nearest number to 1 - |offset| is taken; what that moves a weight
by is computed, not estimated, and added to the weight in Lambda.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from pydeform import _ref
from pydeform._ref.deform_conv import Layer, Tangent, working_dtype
from pydeform._ref.stencil import Alpha, Corner, Sampling
from pydeform._shapes import ConvGeometry
from pydeform.testing.cases import Array, Case, Results

_LONG = np.dtype(np.longdouble)


def unit_roundoff(dtype: Any) -> float:
    """Return the largest relative error of one rounding to nearest.

    Parameters
    ----------
    dtype : dtype
        A floating-point type; ``ml_dtypes.bfloat16`` is one.

    Returns
    -------
    float
        2^-53 for float64, 2^-24 for float32, 2^-11 for float16, 2^-8 for bfloat16.

    Examples
    --------
    >>> unit_roundoff("float32") == 2**-24
    True
    """
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":
        return 2.0**-8
    return float(np.finfo(dtype).eps) / 2


@dataclass(frozen=True)
class Expected:
    """A result as it should be, and how far from that rounding may take it.

    Attributes
    ----------
    value
        The result in `longdouble`.
    bound
        Largest error that rounding explains, entry by entry.
    """

    value: Array
    bound: Array

    def units(self, computed: Array) -> float:
        """Return the largest error of `computed` in units of the bound.

        Parameters
        ----------
        computed : array
            What is judged, of the shape of `value`.

        Returns
        -------
        float
            At most 1 where the bound holds everywhere. An error where the bound is 0, or NaN or an
            infinity where a number is due, is infinite.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        if computed.shape != self.value.shape:
            raise ValueError(f"computed: expected shape {self.value.shape}, got {computed.shape}")
        error = np.abs(long(computed) - self.value)
        with np.errstate(divide="ignore", invalid="ignore"):
            units = np.where(error == 0, 0, error / self.bound)
        units = np.where(np.isnan(units), np.inf, units)
        return float(np.max(units, initial=0))


def reference(case: Case) -> Results:
    """Evaluate a case by the executable specification and nothing else.

    Parameters
    ----------
    case : Case
        Of any float type, or of object arrays of `fractions.Fraction`.

    Returns
    -------
    dict of array
        What `Case.evaluate` has, in the case's own types: exact for fractions.

    Examples
    --------
    >>> from pydeform.testing.values import deform_conv_case, make_geometry
    >>> case = deform_conv_case(*make_geometry((4,), (3,)), seed=0)
    >>> reference(case.map(lambda array: array.astype("longdouble")))["output"].shape
    (1, 1, 2)
    """
    g, y = case.geometry, case.grad_output
    inputs = (case.arrays["input"], case.arrays["offset"], case.arrays["weight"])
    bias, mask = case.arrays["bias"], case.arrays["mask"]
    tangents = [case.tangents.get(name) for name in case.arrays]
    output, primal, tangent = (np.empty_like(y) for _ in range(3))
    gradients = {n: None if a is None else np.empty_like(a) for n, a in case.arrays.items()}
    seconds = {"grad_output": np.empty_like(y)} | {
        n: None if a is None else np.empty_like(a) for n, a in case.arrays.items() if n != "bias"
    }
    _ref.deform_conv(g, *inputs, bias, mask, output)
    _ref.deform_conv_jvp(g, *inputs, bias, mask, tangents, primal, tangent)
    _ref.deform_conv_backward(g, y, *inputs, mask, list(gradients.values()), True)
    _ref.deform_conv_double_backward(g, tangents, y, *inputs, mask, list(seconds.values()))
    if bias is not None:
        seconds["bias"] = np.zeros_like(bias)
    return {
        "output": output,
        "output of jvp": primal,
        "output_tangent": tangent,
        **{f"grad_{name}": a for name, a in gradients.items() if a is not None},
        **{f"second_{name}": a for name, a in seconds.items() if a is not None},
    }


#: Results that are products of columns, and bounded by Lambda times what rounds these.
_OF_COLUMNS = ("output", "output of jvp", "output_tangent", "grad_weight", "second_grad_output")


def expected(case: Case, columns: Any = None) -> dict[str, Expected]:
    """Return what every result of a case should be, with its a-priori bound.

    Parameters
    ----------
    case : Case
        Of finite numbers, already rounded to the dtype that is to be judged.
    columns : dtype, optional
        That of a buffer which columns (samples times mask) are rounded to before they are
        multiplied, as implementations with an im2col buffer or with tensor cores do: it adds its
        unit roundoff times Lambda. Default: none, columns stay in the working type.

    Returns
    -------
    dict of Expected
        By the names that `Case.evaluate` uses. 16-bit cases are judged as storage around float32
        arithmetic.

    Notes
    -----
    Underflow is left out, but for that of a 16-bit result. Where `longdouble` is no wider than
    float64 the reference's own rounding is added, which doubles the bound for float64.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform.testing.values import deform_conv_case, make_geometry
    >>> geometry, pad_end = make_geometry((6, 6), (3, 3), channels=2, out_channels=2)
    >>> case = deform_conv_case(geometry, pad_end, seed=0).astype(np.float32)
    >>> import pydeform
    >>> with pydeform.use_backend("ref"):
    ...     output = case.output()
    >>> expected(case)["output"].units(output) <= 1
    True
    """
    values = reference(case.map(long))
    sizes, counts = sizes_and_counts(case)
    found = judged(case, values, {name: (sizes[name], counts[name]) for name in values})
    if columns is not None:
        rounded = unit_roundoff(columns) * (1 + unit_roundoff(case.dtype))
        for name in _OF_COLUMNS:
            # Rounding goes on from columns that are as much larger.
            value, bound = found[name].value, found[name].bound
            found[name] = Expected(value, bound + rounded * (sizes[name] + bound))
    return found


def judged(
    case: Case, values: Results, parts: Mapping[str, tuple[Array, Array | float]]
) -> dict[str, Expected]:
    """Return the bounds that sizes Lambda and counts k, `parts` by name, amount to.

    Parameters
    ----------
    case : Case
        What they are of.
    values : dict of array
        The results in `longdouble`.
    parts : mapping of str to (array, array or float)
        Lambda and k of every result.

    Returns
    -------
    dict of Expected
        gamma_k Lambda (1 + u_out) + u_out |y|, and what of a 16-bit result is lost to underflow.
    """
    u = unit_roundoff(working_dtype(case.dtype)) + unit_roundoff(_LONG)
    result = {}
    for name, (size, count) in parts.items():
        dtype = storage(case, name)
        u_out = unit_roundoff(dtype) if dtype.itemsize == 2 else 0.0
        tiny = 0.0 if u_out == 0 else smallest(dtype) / 2
        gamma = count * u / (1 - count * u)
        bound = gamma * (1 + u_out) * size + u_out * np.abs(values[name]) + tiny
        result[name] = Expected(values[name], bound)
    return result


def long(array: Array) -> Array:
    """Return an array in longdouble."""
    return np.asarray(array).astype(_LONG)


def smallest(dtype: np.dtype[Any]) -> float:
    """Return the smallest positive number of a 16-bit dtype."""
    return 2.0**-133 if dtype.name == "bfloat16" else 2.0**-24


def storage(case: Case, name: str) -> np.dtype[Any]:
    """Return the dtype that a result is stored in: that of the array that it belongs to."""
    argument = name.removeprefix("grad_").removeprefix("second_")
    array = case.arrays.get(argument)
    return case.dtype if array is None else array.dtype


class AbsoluteSampling(Sampling):
    """The sampling operators with absolute weights, widened by the rounding of the fractions."""

    def __init__(self, geometry: ConvGeometry, offset: Array, working: np.dtype[Any]) -> None:
        super().__init__(geometry, offset)
        held, exact = offset.astype(working), offset.astype(_LONG)
        error = np.abs((held - np.floor(held)).astype(_LONG) - (exact - np.floor(exact)))
        # Where the working type rounds, so may longdouble, in which the reference is computed.
        error += np.where(error > 0, unit_roundoff(_LONG), 0)
        self.slack = (error / unit_roundoff(working)).astype(offset.dtype)

    @cached_property
    def stencils(self) -> tuple[list[list[Corner]], list[list[Corner]]]:
        """As the specification's, in absolute value."""
        values, slopes = super().stencils

        def widened(stencil: list[Corner], slack: Any) -> list[Corner]:
            return [Corner(at, np.where(w != 0, np.abs(w) + slack, w)) for at, w in stencil]

        values = [widened(s, self.slack[:, :, :, d]) for d, s in enumerate(values)]
        return values, [widened(s, 0) for s in slopes]

    def hits(self, alpha: Alpha) -> float:
        """Return how often S_alpha reads the pixel that it reads most often."""
        g = self.geometry
        pixels = math.prod(g.size)
        count = np.zeros(self.nan.shape[0] * self.nan.shape[1] * pixels)
        plane = pixels * np.arange(self.nan.shape[0] * self.nan.shape[1])
        plane = plane.reshape(*self.nan.shape[:2], 1, 1)
        for at, weight in self.corners(alpha):
            np.add.at(count, (plane + at).reshape(-1), (weight != 0).reshape(-1))
        return float(np.max(count, initial=0))


class _Counts:
    """The longest chains of roundings, per result."""

    def __init__(self, case: Case, sampling: AbsoluteSampling) -> None:
        g = case.geometry
        n = g.rank
        # Corners of a sample, of a slope and of a mixed slope, and their chains c_n.
        more = 1.5 if g.kink == "mean" else 1.0
        value, slope, mixed = (2**n * more**order + 2 * n - 1 for order in range(3))
        T = slope + 1 + n  # S_0(u) + sum_d v_d D_d
        A = g.out_channels / g.groups
        fold = g.channels / g.offset_groups
        columns = g.taps * g.channels / g.groups
        positions = math.prod(g.out_size) * (1 if case.arrays["weight"].ndim == n + 3 else g.batch)
        axes = range(n)
        zero, e = (0,) * n, [tuple(int(a == d) for a in axes) for d in axes]
        hits = sampling.hits(zero)
        slope_hits = sum(sampling.hits(alpha) for alpha in e)
        self.by_name = {
            "output": value + 2 + columns,
            "output of jvp": value + 2 + columns,
            "output_tangent": T + 3 + 2 * columns + 1,
            "grad_input": A + 2 * n + 1 + hits,
            "grad_offset": A + slope + 2 + fold,
            "grad_weight": value + 2 + positions,
            "grad_bias": math.prod(g.out_size) * g.batch,
            "grad_mask": A + value + 1 + fold,
            "second_grad_output": T + 3 + 2 * columns,
            "second_input": A + 3 + 2 * n + 1 + hits + slope_hits,
            "second_offset": A + 3 + mixed + 1 + n + 2 + fold,
            "second_weight": T + 3 + positions,
            "second_bias": 0,
            "second_mask": A + T + 2 + fold,
        }


def sizes_and_counts(case: Case) -> tuple[Results, dict[str, float]]:
    """Return Lambda, every result on absolute values in float64, and the counts k, by name."""
    g, working = case.geometry, working_dtype(case.dtype)
    # In absolute value, but for the offset: it says where, and it is split as it is.
    size = case.map(lambda array: np.abs(array.astype(np.float64)))
    arrays, y = size.arrays, size.grad_output
    offset = case.arrays["offset"]
    offset = None if offset is None else offset.astype(np.float64)
    layer = Layer(
        g,
        arrays["input"],
        offset,
        arrays["weight"],
        arrays["mask"],
        lambda geometry, p: AbsoluteSampling(geometry, p, working),
    )
    ybar = layer.layout.output(y)
    t = Tangent(layer.layout, [size.tangents.get(name) for name in arrays])
    output, tangent = layer.output(arrays["bias"]), layer.output_tangent(t)
    sizes = {
        "output": output,
        "output of jvp": output,
        "output_tangent": tangent,
        "grad_input": layer.grad_input(ybar),
        "grad_offset": layer.grad_offset(ybar),
        "grad_weight": layer.grad_weight(ybar),
        "grad_bias": layer.grad_bias(ybar),
        "grad_mask": layer.grad_mask(ybar),
        "second_grad_output": tangent,
        "second_input": layer.second_input(ybar, t),
        "second_offset": layer.second_offset(ybar, t),
        "second_weight": layer.second_weight(ybar, t),
        "second_bias": layer.grad_bias(0 * ybar),
        "second_mask": layer.second_mask(ybar, t),
    }
    return sizes, _Counts(case, cast("AbsoluteSampling", layer.sampling)).by_name
