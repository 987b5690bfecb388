"""Kernels for sequences that replace attention: softmax-normalised, shared by heads of channels."""

from __future__ import annotations

from typing import Any

from pydeform.recipes._namespace import Array, axes_of, namespace, pointwise, softmax
from pydeform.recipes._primitives import deform_conv1d, local_conv1d


def lightweight_conv(
    input: Array, weight: Array, bias: Array | None = None, *, padding: Any = "same"
) -> Array:
    """Convolve sequences channel by channel with kernels that sum to 1 and that heads share.

    Parameters
    ----------
    input : array, shape (N, C, T)
        Sequences.
    weight : array, shape (H, k)
        One kernel for each of H heads of C/H channels, before the softmax over its taps.
    bias : array, shape (C,), optional
        Added to every output position.
    padding : see `pydeform.deform_conv1d`
        "same" for an encoder; ``((k-1, 0),)`` looks back only, for a decoder.

    Returns
    -------
    array, shape (N, C, T)
        The filtered sequences.

    References
    ----------
    .. [1] F. Wu et al., "Pay Less Attention with Lightweight and Dynamic Convolutions",
       ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.array([[[0.0, 3.0, 6.0, 3.0]]])
    >>> recipes.lightweight_conv(x, np.zeros((1, 3)), padding=((2, 0),))
    array([[[0., 1., 3., 4.]]])
    """
    xp = namespace(input=input, weight=weight, bias=bias)
    axes_of("weight", weight, "(H, k)")
    (_, c, _), (heads, k) = input.shape, weight.shape
    if c % heads:
        raise ValueError(f"weight: expected heads that divide the {c} channels, got {heads}")
    kernel = xp.reshape(softmax(xp, weight), (heads, 1, k))
    kernel = xp.reshape(xp.broadcast_to(kernel, (heads, c // heads, k)), (c, 1, k))
    return deform_conv1d(input, None, kernel, bias, padding=padding)


def dynamic_conv1d(input: Array, projection: Array, *, heads: int, padding: Any = "same") -> Array:
    """Filter every time step with kernels that a linear layer makes of the step itself.

    Parameters
    ----------
    input : array, shape (N, C, T)
        Sequences.
    projection : array, shape (heads*k, C)
        Layer from a time step to its kernels, before the softmax over the k taps.
    heads : int
        Groups of C/heads channels, each of which has kernels of its own.
    padding : see `pydeform.deform_conv1d`
        "same" for an encoder; ``((k-1, 0),)`` looks back only, for a decoder.

    Returns
    -------
    array, shape (N, C, T)
        The filtered sequences.

    References
    ----------
    .. [1] F. Wu et al., "Pay Less Attention with Lightweight and Dynamic Convolutions",
       ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> x = np.array([[[0.0, 3.0, 6.0, 3.0]]])
    >>> recipes.dynamic_conv1d(x, np.zeros((3, 1)), heads=1, padding=((2, 0),))
    array([[[0., 1., 3., 4.]]])
    """
    xp = namespace(input=input, projection=projection)
    axes_of("input", input, "(N, C, T)")
    n, _, steps = input.shape
    if projection.shape[0] % heads:
        raise ValueError(
            f"projection: expected a multiple of the {heads} heads as its first size, "
            f"got {projection.shape[0]}"
        )
    kernel = xp.reshape(pointwise(xp, input, projection), (n, heads, -1, steps))
    return local_conv1d(input, softmax(xp, kernel, axis=2), padding=padding)
