"""Splatting values onto images, the exact adjoint of sampling: the public functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call
from pydeform.ops._checks import Kink, Mode, PerAxis
from pydeform.ops._sampling import Deriv, Options
from pydeform.ops._sampling_rules import SPLAT, SplatDoubleGrads, SplatGrads

A = TypeVar("A", bound=Array)


def splat(
    values: A,
    position: Array,
    size: PerAxis,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    out: Array | None = None,
) -> A:
    """Add values to images at arbitrary positions: the exact adjoint of `sample`.

    Every value goes to the pixels that `sample` would read there, with the same weights, so that
    ``sum(sample(x, p) * v) == sum(x * splat(v, p, size))``.

    Parameters
    ----------
    values : array, shape (N, C, K, *O)
        Batch, which may be empty, of what is added.
    position : array, shape (N, G, K, *O, n)
        Where to, in pixels, as of `sample`; n = 1, 2 or 3.
    size : int or n of them
        S, the size of the images.
    deriv : tuple of n of {0, 1}, optional
        The axes along which the interpolation is differentiated, as of `sample`.
    mode : {"zeros", "clip_zero", "border"}
        What becomes of values outside, as of `deform_conv2d`: with "zeros" they are lost.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, as of `deform_conv2d`.
    out : array, shape of the output, optional
        Overwritten and returned. C-contiguous, writable, of the dtype of values, no memory shared
        with another argument.

    Returns
    -------
    array, shape (N, C, *S)
        Of the same kind and dtype as `values`.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (position may be float32 beside 16-bit arrays), or
        devices are mixed.
    ValueError
        If shapes or options do not fit together, or `out` cannot be written.
    MemoryError
        If the output does not fit in memory. Nothing is written before all checks pass.

    See Also
    --------
    sample : What this is the adjoint of.
    splat_backward : Gradients.

    Notes
    -----
    A value at a NaN or an infinite coordinate goes nowhere. Values are added in an order that does
    not depend on the number of threads.

    References
    ----------
    .. [1] S. Niklaus, F. Liu, "Softmax Splatting for Video Frame Interpolation", CVPR 2020.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> p = np.array([0.5, 2.25]).reshape(1, 1, 1, 2, 1)
    >>> pydeform.splat(np.array([[[[1.0, 4.0]]]]), p, 4)
    array([[[0.5, 0.5, 3. , 1. ]]])
    """
    return _call.forward(  # type: ignore[no-any-return]
        SPLAT, {"values": values, "position": position}, Options(deriv, mode, kink, size), out
    )


def splat_backward(
    grad_output: Array,
    values: A,
    position: Array,
    size: PerAxis,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> SplatGrads[A]:
    """Compute the gradients of `splat` (reverse mode).

    Parameters
    ----------
    grad_output : array, shape (N, C, *S)
        Gradient of some loss with respect to the output.
    values, position, size, deriv, mode, kink : see `splat`
        As they were given to it.
    needs : iterable of str, optional
        Names among "values", "position" whose gradients are computed. Default: both.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of `splat`.

    Returns
    -------
    SplatGrads
        Named tuple (values, position); None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `splat`, also where `grad_output` has not the shape and dtype of the output, or `needs`
        or `out` have other names.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> z, p = np.full((1, 1, 1), 2.0), np.full((1, 1, 1, 1), 0.25)
    >>> grads = pydeform.splat_backward(np.array([[[0.0, 10.0, 40.0]]]), z, p, 3)
    >>> grads.values, grads.position.item()
    (array([[[2.5]]]), 20.0)
    """
    return _call.backward(  # type: ignore[no-any-return]
        SPLAT,
        grad_output,
        {"values": values, "position": position},
        Options(deriv, mode, kink, size),
        needs,
        out,
    )


def splat_jvp(
    values: A,
    position: Array,
    size: PerAxis,
    *,
    tangents: Mapping[str, Array],
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute the output of `splat` and its derivative along a direction (forward mode).

    Parameters
    ----------
    values, position, size : see `splat`
        As they were given to it.
    tangents : mapping from names to arrays
        The direction, by names among "values", "position"; each of the shape and dtype of its
        argument. What is not named does not change.
    deriv, mode, kink : see `splat`
        As they were given to it.
    out : mapping from "output" and "output_tangent" to arrays, optional
        Results to be written in these arrays, which are returned; each as `out` of `splat`.

    Returns
    -------
    output : array, shape (N, C, *S)
        As of `splat`.
    output_tangent : array, shape (N, C, *S)
        Derivative of the output along `tangents`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `splat`, also where a tangent has another name or is not like its argument.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> z, p = np.full((1, 1, 1), 2.0), np.full((1, 1, 1, 1), 0.25)
    >>> pydeform.splat_jvp(z, p, 3, tangents={"position": np.ones_like(p)})
    (array([[[1.5, 0.5, 0. ]]]), array([[[-2.,  2.,  0.]]]))
    """
    return _call.jvp(
        SPLAT,
        {"values": values, "position": position},
        Options(deriv, mode, kink, size),
        tangents,
        out,
    )


def splat_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    values: A,
    position: Array,
    size: PerAxis,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> SplatDoubleGrads[A]:
    """Compute the gradients of `splat_backward` (second order).

    Parameters
    ----------
    grad_grads : mapping from names to arrays
        Gradient of some loss with respect to each result of `splat_backward`, by names among
        "values", "position"; each of the shape and dtype of its argument. What is not named is 0.
    grad_output : array, shape (N, C, *S)
        As given to `splat_backward`.
    values, position, size, deriv, mode, kink : see `splat`
        As they were given to it.
    needs : iterable of str, optional
        Names among "grad_output", "values", "position" whose gradients are computed. Default: all.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of `splat`.

    Returns
    -------
    SplatDoubleGrads
        Named tuple (grad_output, values, position); None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `splat_backward`, also where `grad_grads` has another name or holds an array unlike its
        argument.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> z, p = np.full((1, 1, 1), 2.0), np.full((1, 1, 1, 1), 0.25)
    >>> second = pydeform.splat_double_backward(
    ...     {"position": np.ones_like(p)}, np.array([[[0.0, 10.0, 40.0]]]), z, p, 3
    ... )
    >>> second.values.item(), second.grad_output
    (10.0, array([[[-2.,  2.,  0.]]]))
    """
    return _call.double_backward(  # type: ignore[no-any-return]
        SPLAT,
        grad_grads,
        grad_output,
        {"values": values, "position": position},
        Options(deriv, mode, kink, size),
        needs,
        out,
    )
