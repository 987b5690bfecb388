"""Deformable pooling of regions of interest, plain and modulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, SupportsIndex, TypeVar

from pydeform._arrays import Array
from pydeform.ops import _call, _parts, _roi
from pydeform.ops._checks import Kink, PerAxis

A = TypeVar("A", bound=Array)
T = TypeVar("T")


class DeformRoiPoolGrads(NamedTuple, Generic[T]):
    """Gradients of `deform_roi_pool`; None where the argument is absent or not needed."""

    input: T | None
    offset: T | None
    mask: T | None


class DeformRoiPoolDoubleGrads(NamedTuple, Generic[T]):
    """Gradients of the gradients of `deform_roi_pool`; None where absent or not needed."""

    grad_output: T | None
    input: T | None
    offset: T | None
    mask: T | None


_RULES = _parts.rules(
    arguments=("input", "offset", "mask"),
    required=("input",),
    constants=("rois",),
    like="input",
    plan=_roi.plan,
    grads=DeformRoiPoolGrads,
    double_grads=DeformRoiPoolDoubleGrads,
)


def deform_roi_pool(
    input: A,
    rois: Array,
    offset: Array | None,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    gamma: float = 0.1,
    mask: Array | None = None,
    *,
    kink: Kink = "right",
    out: Array | None = None,
) -> A:
    """Average regions of images in bins that move (deformable RoI pooling, RoIAlign variant).

    Each region is split into bins; each bin is moved by its offset and averaged over a grid of
    bilinear samples. With `mask` bins are weighted (modulated deformable RoI pooling).

    Parameters
    ----------
    input : array, shape (N, C, H, W)
        Batch of images.
    rois : array of float32 or float64, shape (R, 5)
        Regions (i, x1, y1, x2, y2): which image, and two corners, x1 < x2 and y1 < y2, in pixels
        before `spatial_scale`. There may be none. No derivative is taken by them. Beside an input
        on a CUDA device they may lie on the CPU; else they are fetched, which waits for the device.
    offset : array, shape (R, 2, ph, pw), or None
        Shift of every bin as (x, y), in sizes of its region before `gamma`. None is `roi_align`.
    output_size : int or 2 of them
        Bins (ph, pw) of each region.
    spatial_scale : float
        From units of `rois` to pixels of `input`.
    sampling_ratio : int
        Samples per bin along each axis; with 0 (or -1) as many as a bin has pixels, rounded up.
    gamma : float
        Factor of the offsets.
    mask : array, shape (R, 1, ph, pw), optional
        Factor of every bin, used as it is: no sigmoid.
    kink : {"right", "open", "mean"}
        Derivative at whole coordinates, as in `deform_conv2d`.
    out : array, shape of the output, optional
        Written and returned. C-contiguous, writable, of the dtype of input, no memory shared with
        another argument.

    Returns
    -------
    array, shape (R, C, ph, pw)
        Of the same kind and dtype as `input`.

    Raises
    ------
    TypeError
        If an argument is not an array or an option not of its type, if dtypes are mixed or not
        float32, float64, float16 or bfloat16 (offset and mask may both be float32 beside 16-bit
        arrays), or devices are mixed.
    ValueError
        If shapes or options do not fit together, if a region is of no or negative size, not finite
        or of an image outside the batch, or `out` cannot be written.
    MemoryError
        If the output or the samples do not fit in memory. Nothing is written before all checks
        pass.

    See Also
    --------
    deform_roi_pool_backward : Gradients.
    roi_align : Without offsets.

    Notes
    -----
    Regions are shifted by half a pixel ("aligned"). From -1 to the size of the image a coordinate
    is clamped to [0, size - 1]; samples beyond are 0. The derivative of a clamped coordinate is 0.
    (mmcv's gradient is not 0 there: it takes the distance to the pixel without the clamp.)

    References
    ----------
    .. [1] J. Dai et al., "Deformable Convolutional Networks", ICCV 2017.
    .. [2] X. Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> rois = np.array([[0.0, 1, 1, 3, 3]])
    >>> offset = np.zeros((1, 2, 2, 2))
    >>> offset[0, 0, 0, 0] = 5  # 0.1 * 5 = half of the region's width
    >>> pydeform.deform_roi_pool(x, rois, offset, 2)
    array([[[[ 6.,  6.],
             [ 9., 10.]]]])
    """
    options = _roi.Options(output_size, spatial_scale, sampling_ratio, gamma, kink)
    values = {"input": input, "offset": offset, "mask": mask, "rois": rois}
    return _call.forward(_RULES, values, options, out)  # type: ignore[no-any-return]


def deform_roi_pool_backward(
    grad_output: Array,
    input: A,
    rois: Array,
    offset: Array | None,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    gamma: float = 0.1,
    mask: Array | None = None,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> DeformRoiPoolGrads[A]:
    """Compute the gradients of `deform_roi_pool`.

    Parameters
    ----------
    grad_output : array, shape (R, C, ph, pw)
        Cotangent of the output.
    input, rois, offset : array
        As in `deform_roi_pool`.
    output_size, spatial_scale, sampling_ratio, gamma : int, float
        As in `deform_roi_pool`.
    mask : array, optional
        As in `deform_roi_pool`.
    kink : {"right", "open", "mean"}
        As in `deform_roi_pool`.
    needs : iterable of str, optional
        Names of the arguments whose gradients are computed; all that are given by default.
    out : mapping of str to array, optional
        Memory for gradients, by name.

    Returns
    -------
    DeformRoiPoolGrads
        Named tuple (input, offset, mask), each like its argument; None where absent or not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_roi_pool`; ValueError also if a name in `needs` or `out` is unknown.

    See Also
    --------
    deform_roi_pool : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> rois, offset = np.array([[0.0, 0, 0, 2, 2]]), np.zeros((1, 2, 1, 1))
    >>> y = np.ones((1, 1, 1, 1))
    >>> pydeform.deform_roi_pool_backward(y, x, rois, offset, 1, sampling_ratio=1).offset.ravel()
    array([0.2, 0.8])
    """
    options = _roi.Options(output_size, spatial_scale, sampling_ratio, gamma, kink)
    values = {"input": input, "offset": offset, "mask": mask, "rois": rois}
    return _call.backward(_RULES, grad_output, values, options, needs, out)  # type: ignore[no-any-return]


def deform_roi_pool_jvp(
    input: A,
    rois: Array,
    offset: Array | None,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    gamma: float = 0.1,
    mask: Array | None = None,
    *,
    tangents: Mapping[str, Array],
    kink: Kink = "right",
    out: Mapping[str, Array] | None = None,
) -> tuple[A, A]:
    """Compute `deform_roi_pool` and its derivative along tangents.

    Parameters
    ----------
    input, rois, offset : array
        As in `deform_roi_pool`.
    output_size, spatial_scale, sampling_ratio, gamma : int, float
        As in `deform_roi_pool`.
    mask : array, optional
        As in `deform_roi_pool`.
    tangents : mapping of str to array
        Directions by argument, each like its argument; those that are missing are 0.
    kink : {"right", "open", "mean"}
        As in `deform_roi_pool`.
    out : mapping of str to array, optional
        Memory for "output" and "output_tangent".

    Returns
    -------
    output, output_tangent : array, shape (R, C, ph, pw)
        The output, to the bit that of `deform_roi_pool`, and its derivative.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_roi_pool`; ValueError also if a tangent is not like its argument.

    See Also
    --------
    deform_roi_pool : The operation.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, rois = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[0.0, 0, 0, 2, 2]])
    >>> along = {"input": np.ones((1, 1, 4, 4))}
    >>> pydeform.deform_roi_pool_jvp(x, rois, None, 1, tangents=along)
    (array([[[[2.5]]]]), array([[[[1.]]]]))
    """
    options = _roi.Options(output_size, spatial_scale, sampling_ratio, gamma, kink)
    values = {"input": input, "offset": offset, "mask": mask, "rois": rois}
    return _call.jvp(_RULES, values, options, tangents, out)


def deform_roi_pool_double_backward(
    grad_grads: Mapping[str, Array],
    grad_output: Array,
    input: A,
    rois: Array,
    offset: Array | None,
    output_size: PerAxis,
    spatial_scale: float = 1.0,
    sampling_ratio: SupportsIndex = 0,
    gamma: float = 0.1,
    mask: Array | None = None,
    *,
    kink: Kink = "right",
    needs: Iterable[str] | None = None,
    out: Mapping[str, Array] | None = None,
) -> DeformRoiPoolDoubleGrads[A]:
    """Compute the gradients of the gradients of `deform_roi_pool`.

    Parameters
    ----------
    grad_grads : mapping of str to array
        Cotangents of the gradients by argument; those that are missing are 0.
    grad_output : array, shape (R, C, ph, pw)
        Cotangent of the output.
    input, rois, offset : array
        As in `deform_roi_pool`.
    output_size, spatial_scale, sampling_ratio, gamma : int, float
        As in `deform_roi_pool`.
    mask : array, optional
        As in `deform_roi_pool`.
    kink : {"right", "open", "mean"}
        As in `deform_roi_pool`.
    needs : iterable of str, optional
        Names among "grad_output" and the arguments that results are computed for; all by default.
    out : mapping of str to array, optional
        Memory for results, by name.

    Returns
    -------
    DeformRoiPoolDoubleGrads
        Named tuple (grad_output, input, offset, mask): the gradients of the sum over names of
        <grad_grads[name], gradient of name>; None where absent or not needed.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `deform_roi_pool_backward`.

    See Also
    --------
    deform_roi_pool_backward : What is differentiated.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> x, rois = np.arange(16.0).reshape(1, 1, 4, 4), np.array([[0.0, 0, 0, 2, 2]])
    >>> y, along = np.ones((1, 1, 1, 1)), {"input": x}
    >>> pydeform.deform_roi_pool_double_backward(along, y, x, rois, None, 1).grad_output
    array([[[[2.5]]]])
    """
    options = _roi.Options(output_size, spatial_scale, sampling_ratio, gamma, kink)
    values = {"input": input, "offset": offset, "mask": mask, "rois": rois}
    return _call.double_backward(  # type: ignore[no-any-return]
        _RULES, grad_grads, grad_output, values, options, needs, out
    )
