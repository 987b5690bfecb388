"""How much memory backends may take beside arguments and results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, SupportsIndex

from pydeform import _arrays, _cuda, _dispatch, _shapes
from pydeform._arrays import Array


def _backend(name: str) -> Any:
    if name not in ("cpu", "cuda"):
        raise ValueError(f"backend: expected 'cpu' or 'cuda', got {name!r}")
    return _dispatch.load("cpu" if name == "cpu" else "emulated")  # the same module, without CuPy


def set_workspace_limit(size: SupportsIndex, backend: str = "cpu") -> None:
    """Set how many bytes a backend may take beside arguments and results, for the whole process.

    On the CPU these are copies of images, and what adds up over blocks of channels. The fastest way
    to read an image is in float32 or float64 with its channels side by side, and where it does not
    lie so, the compiled backend copies: for the output as many images at a time as stay within the
    limit, for gradients a block of channels of an image, and of its gradient, per thread. An image
    too large for that is read where it lies, in 16 bits too, which takes up to three times as long;
    so is one of few channels, always. A large gradient of an image in 16 bits is computed in strips
    of pixels, a strip in float32 per thread. Where offsets are so large that every position
    reaches every strip, each strip takes all positions again. Results of different limits agree
    within their bounds, but not in every bit: they belong to the limit.

    Whatever the limit, up to 64 MiB of freed results and workspace stay with the process, the
    newest, since fresh memory is slow.

    At import it is PYDEFORM_WORKSPACE_MIB times 2**20 bytes, or 64 MiB. Beside that a thread needs
    some megabytes for a tile of positions; packed weights, and gradients of weights before they are
    added up, take up to some times as much as the weights. Not bounded are arrays that are not
    C-contiguous, of which the call makes copies, and what is composed of array expressions: pooling
    of regions, and `sample` and `splat` beside their outputs. docs/explanation/cpu-engine.md has
    the table.

    On a GPU the limit is that of columns: the samples of as many positions as are multiplied by
    the weight at a time. At import it is PYDEFORM_GPU_WORKSPACE_MIB times 2**20 bytes, or 256 MiB.
    Where the device has not that much, half of it is tried, once. Beside the columns there are
    copies, channels last, of what does not lie so, and in float32 of gradients in 16 bit.

    Parameters
    ----------
    size : int
        Bytes; 0 lets no image be copied, and a GPU take 16 positions at a time.
    backend : {"cpu", "cuda"}
        Whose limit it is.

    Raises
    ------
    TypeError
        If `size` is not an integer.
    ValueError
        If `size` is negative or beyond 2**62, or `backend` is none of the two.

    See Also
    --------
    get_workspace_limit : What it is.

    Examples
    --------
    >>> import pydeform
    >>> before = pydeform.get_workspace_limit()
    >>> pydeform.set_workspace_limit(256 << 20)
    >>> pydeform.get_workspace_limit()
    268435456
    >>> pydeform.set_workspace_limit(before)
    """
    count = _shapes.integer("size", size)
    if not 0 <= count <= 1 << 62:
        raise ValueError(f"size: expected 0 to 2**62 bytes, got {count}")
    _backend(backend).set_workspace(count)


def get_workspace_limit(backend: str = "cpu") -> int:
    """Return how many bytes a backend may take beside arguments and results.

    Parameters
    ----------
    backend : {"cpu", "cuda"}
        Whose limit it is.

    Returns
    -------
    int
        Bytes.

    See Also
    --------
    set_workspace_limit : Change it.

    Examples
    --------
    >>> import pydeform
    >>> pydeform.get_workspace_limit() >= 0
    True
    """
    count: int = _backend(backend).get_workspace()
    return count


@contextmanager
def workspace(memory: Array) -> Iterator[Any]:
    """Give a memory of your own to calls on a GPU, for all that they need beside their results.

    Without it that comes from CuPy's pool, which may hand it to others afterwards. A CUDA graph
    goes on using the addresses that were seen when it was captured: give `out=` and a workspace,
    and keep both for as long as the graph is played. Results without `out=` never lie in the
    workspace, and calls on the CPU take nothing of it.

    Parameters
    ----------
    memory : CUDA array
        Contiguous and writable, of any shape and dtype; what it holds is lost. It must not be used
        by two calls at once: make them on one stream after the other, of one thread.

    Yields
    ------
    object
        With `size`, the bytes that can be used, and `peak`, the most that were.

    Raises
    ------
    TypeError
        If `memory` is not a CUDA array, or cannot be written.
    ValueError
        If `memory` is not contiguous.
    ImportError, RuntimeError
        If CuPy is missing or finds no device.

    Notes
    -----
    Columns take half of it at most, and `set_workspace_limit` at most; the other half is for copies
    and for what sorting needs. Too small a workspace ends a call with a MemoryError. Kernels are
    compiled and constants uploaded by the first call, which is not to be captured: make it with the
    same workspace, and `peak` says how much of it was needed.

    Examples
    --------
    >>> import pydeform
    >>> def captured(cupy, arrays, out, memory):  # with CuPy and a GPU
    ...     stream = cupy.cuda.Stream(non_blocking=True)
    ...     with stream, pydeform.workspace(memory):
    ...         pydeform.deform_conv2d(*arrays, out=out)
    ...         stream.begin_capture()
    ...         pydeform.deform_conv2d(*arrays, out=out)
    ...         return stream.end_capture()
    """
    device = _arrays.device_of("memory", memory)
    if not device.startswith("cuda"):
        raise TypeError(f"memory: expected a CUDA array, got one on {device}")
    if not _cuda.is_writable(memory):
        raise TypeError("memory: expected an array that can be written, got one that is read-only")
    array = _arrays.as_array("memory", memory, device)
    if not array.flags.c_contiguous:
        raise ValueError(
            f"memory: expected a contiguous array, got shape {array.shape} with strides "
            f"{array.strides}"
        )
    module = import_module("pydeform._gpu._workspace")
    with module.given(array) as given:
        yield given
