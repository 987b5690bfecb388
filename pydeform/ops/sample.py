"""Sampling images at arbitrary positions, and splatting, its exact adjoint: the public functions.

With alpha in {0, 1}^n (`deriv`: the axes along which the interpolation is differentiated),

    S_alpha(x, p) = sum over the corners b of p's cell of  prod_d phi^{alpha_d}_{b_d}(f_d) * x[i+b]

is a family that is closed under differentiation: d S_alpha / d p_d is S_{alpha+e_d} where axis d
was not differentiated yet, else 0. `sample` is S_alpha and `splat` its transpose, so that all
derivatives of both are calls of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call
from pydeform.ops._checks import Kink, Mode
from pydeform.ops._sampling import Deriv, Options
from pydeform.ops._sampling_rules import SAMPLE, SampleDoubleGrads, SampleGrads
from pydeform.ops._splat import splat, splat_backward, splat_double_backward, splat_jvp

__all__ = [
    "sample",
    "sample_backward",
    "sample_double_backward",
    "sample_jvp",
    "splat",
    "splat_backward",
    "splat_double_backward",
    "splat_jvp",
]

A = TypeVar("A", bound=Array)


def sample(
    input: A,
    position: Array,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    out: Array | None = None,
) -> A:
    """Read images at arbitrary positions by linear interpolation.

    Parameters
    ----------
    input : array, shape (N, C, *S)
        Batch, which may be empty, of signals, images or volumes: S has n = 1, 2 or 3 axes.
    position : array, shape (N, G, K, *O, n)
        Where to read, in pixels from the centre of the first one; the last axis in the order of S,
        (y, x) for images. Channels are shared out to G groups, which divide C, each with K
        positions of its own at every place of O; O may have any number of axes, none too.
    deriv : tuple of n of {0, 1}, optional
        The axes along which the interpolation is differentiated: (0, 1) is the derivative of an
        image along x. Default: none, the value.
    mode : {"zeros", "clip_zero", "border"}
        What is read outside, as of `deform_conv2d`.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, as of `deform_conv2d`.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (N, C, K, *O)
        Of the same kind and dtype as `input`; channel c at the positions of group c // (C/G).

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
    splat : The adjoint.
    sample_backward : Gradients.

    Notes
    -----
    A sample at a NaN coordinate is NaN, at an infinite one 0. A large coordinate in float32 has few
    bits left for its fraction; `deform_conv2d` and `local_conv2d` take offsets from their grid,
    which keep them.

    References
    ----------
    .. [1] M. Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.array([[[0.0, 10.0, 20.0, 40.0]]])
    >>> p = np.array([0.5, 2.25, -0.5, 7.0]).reshape(1, 1, 1, 4, 1)
    >>> pydeform.sample(x, p)
    array([[[[ 5., 25.,  0.,  0.]]]])
    >>> pydeform.sample(x, p, deriv=(1,), mode="border")
    array([[[[10., 20.,  0.,  0.]]]])
    """
    return _call.forward(  # type: ignore[no-any-return]
        SAMPLE, {"input": input, "position": position}, Options(deriv, mode, kink), out
    )


def sample_backward(
    grad_output: Array,
    input: A,
    position: Array,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> SampleGrads[A]:
    """Compute the gradients of `sample` (reverse mode).

    Parameters
    ----------
    grad_output : array, shape (N, C, K, *O)
        Gradient of some loss with respect to the output.
    input, position, deriv, mode, kink : see `sample`
        As they were given to it.
    needs : iterable of str, optional
        Names among "input", "position" whose gradients are computed. Default: both.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of `sample`.

    Returns
    -------
    SampleGrads
        Named tuple (input, position); None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `sample`, also where `grad_output` has not the shape and dtype of the output, or `needs`
        or `out` have other names.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, p = np.array([[[0.0, 10.0, 40.0]]]), np.full((1, 1, 1, 1), 0.25)
    >>> grads = pydeform.sample_backward(np.ones((1, 1, 1)), x, p)
    >>> grads.input, grads.position.item()
    (array([[[0.75, 0.25, 0.  ]]]), 10.0)
    """
    return _call.backward(  # type: ignore[no-any-return]
        SAMPLE,
        grad_output,
        {"input": input, "position": position},
        Options(deriv, mode, kink),
        needs,
        out,
    )


def sample_jvp(
    input: A,
    position: Array,
    *,
    tangents: Mapping[str, Array],
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute the output of `sample` and its derivative along a direction (forward mode).

    Parameters
    ----------
    input, position : see `sample`
        As they were given to it.
    tangents : mapping from names to arrays
        The direction, by names among "input", "position"; each of the shape and dtype of its
        argument. What is not named does not change.
    deriv, mode, kink : see `sample`
        As they were given to it.
    out : mapping from "output" and "output_tangent" to arrays, optional
        Results to be written in these arrays, which are returned; each as `out` of `sample`.

    Returns
    -------
    output : array, shape (N, C, K, *O)
        As of `sample`.
    output_tangent : array, shape (N, C, K, *O)
        Derivative of the output along `tangents`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `sample`, also where a tangent has another name or is not like its argument.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, p = np.array([[[0.0, 10.0, 40.0]]]), np.full((1, 1, 1, 1), 0.25)
    >>> pydeform.sample_jvp(x, p, tangents={"position": np.ones_like(p)})
    (array([[[2.5]]]), array([[[10.]]]))
    """
    return _call.jvp(
        SAMPLE, {"input": input, "position": position}, Options(deriv, mode, kink), tangents, out
    )


def sample_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    position: Array,
    *,
    deriv: Deriv | None = None,
    mode: Mode = "zeros",
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> SampleDoubleGrads[A]:
    """Compute the gradients of `sample_backward` (second order).

    Parameters
    ----------
    grad_grads : mapping from names to arrays
        Gradient of some loss with respect to each result of `sample_backward`, by names among
        "input", "position"; each of the shape and dtype of its argument. What is not named is 0.
    grad_output : array, shape (N, C, K, *O)
        As given to `sample_backward`.
    input, position, deriv, mode, kink : see `sample`
        As they were given to it.
    needs : iterable of str, optional
        Names among "grad_output", "input", "position" whose gradients are computed. Default: all.
    out : mapping from names to arrays, optional
        Gradients to be written in these arrays, which are returned; each as `out` of `sample`.

    Returns
    -------
    SampleDoubleGrads
        Named tuple (grad_output, input, position); None where not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `sample_backward`, also where `grad_grads` has another name or holds an array unlike its
        argument.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, p = np.array([[[0.0, 10.0, 40.0]]]), np.full((1, 1, 1, 1), 0.25)
    >>> second = pydeform.sample_double_backward(
    ...     {"position": np.ones_like(p)}, np.ones((1, 1, 1)), x, p
    ... )
    >>> second.grad_output.item(), second.input
    (10.0, array([[[-1.,  1.,  0.]]]))
    """
    return _call.double_backward(  # type: ignore[no-any-return]
        SAMPLE,
        grad_grads,
        grad_output,
        {"input": input, "position": position},
        Options(deriv, mode, kink),
        needs,
        out,
    )
