"""Products of matrices: cuBLAS on a device of NVIDIA's, elsewhere `matmul` of the arrays' library.

Operands of 16 bits are multiplied as they are and added up in float32, on tensor cores; those of
float32 in float32, unless PYDEFORM_TF32=1 allows the ten bits of TF32.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from pydeform._gpu._layout import Array, named, namespace, pointer, strides


def tf32() -> bool:
    """Return whether float32 may be multiplied as TF32: PYDEFORM_TF32=1, off by default."""
    return os.environ.get("PYDEFORM_TF32", "0") == "1"


def product(
    a: Array,
    b: Array,
    out: Array,
    a_turned: bool = False,
    b_turned: bool = False,
    add: bool = False,
) -> None:
    """Write (or add) a @ b to out, [groups, m, k] by [groups, k, n].

    A turned operand is given as [groups, k, m] or [groups, n, k]. Both are of one type, `out` is of
    the working type; the last axis of each is contiguous.
    """
    if out.size == 0:
        return
    if a.size == 0:
        if not add:
            out[...] = 0
    elif (xp := namespace(out)) is np or xp.cuda.runtime.is_hip:
        _by_matmul(xp, a, b, out, a_turned, b_turned, add)
    else:
        _on_device(a, b, out, a_turned, b_turned, add)


def _by_matmul(
    xp: Any, a: Array, b: Array, out: Array, a_turned: bool, b_turned: bool, add: bool
) -> None:
    a, b = (operand.astype(out.dtype, copy=False) for operand in (a, b))
    found = xp.matmul(a.swapaxes(1, 2) if a_turned else a, b.swapaxes(1, 2) if b_turned else b)
    if add:
        out += found
    else:
        out[...] = found


def _matrix(array: Array) -> tuple[int, int, int]:
    """Address, leading dimension and stride from group to group."""
    group, row, _ = strides(array)
    return pointer(array), max(row, array.shape[2]), group


def _on_device(a: Array, b: Array, out: Array, a_turned: bool, b_turned: bool, add: bool) -> None:
    """Call cuBLAS, which counts rows where we count columns: out^T = b^T a^T."""
    cupy, cublas, get_cublas_handle, kinds = _of_cupy()
    computed = cublas.CUBLAS_COMPUTE_32F
    if out.dtype == np.float64:
        computed = cublas.CUBLAS_COMPUTE_64F
    elif a.dtype == np.float32 and tf32():
        computed = cublas.CUBLAS_COMPUTE_32F_FAST_TF32
    groups, m, n = out.shape
    k = a.shape[1] if a_turned else a.shape[2]
    factors = np.array([1, int(add)], out.dtype)  # read by the call itself
    one, kept = factors.ctypes.data, factors.ctypes.data + factors.itemsize
    turn = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    (at_a, ld_a, step_a), (at_b, ld_b, step_b), (at_out, ld_out, step_out) = map(
        _matrix, (a, b, out)
    )
    kind, kind_out = kinds[named(a.dtype)], kinds[named(out.dtype)]
    stream = cupy.cuda.get_current_stream()
    multiply = _captured(stream.ptr) if stream.is_capturing() else cublas.gemmStridedBatchedEx
    with cupy.cuda.Device(out.device.id):
        multiply(
            *(get_cublas_handle(), turn[b_turned], turn[a_turned], n, m, k, one),
            *(at_b, kind, ld_b, step_b, at_a, kind, ld_a, step_a, kept),
            *(at_out, kind_out, ld_out, step_out, groups, computed),
            cublas.CUBLAS_GEMM_DEFAULT,
        )


def _of_cupy() -> tuple[Any, Any, Any, dict[str, int]]:
    """CuPy, its cuBLAS, where that has its handle, and what it calls types."""
    import cupy
    from cupy.cuda.device import get_cublas_handle
    from cupy_backends.cuda.api import runtime
    from cupy_backends.cuda.libs import cublas

    kinds = {
        "half_t": runtime.CUDA_R_16F,
        "bf16_t": runtime.CUDA_R_16BF,
        "float": runtime.CUDA_R_32F,
        "double": runtime.CUDA_R_64F,
    }
    return cupy, cublas, get_cublas_handle, kinds


@cache
def _cublas() -> Any:
    """The library that CuPy has loaded."""
    import cupy

    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    windows = sys.platform == "win32"
    return ctypes.CDLL(f"cublas64_{major}.dll" if windows else f"libcublas.so.{major}")


def _captured(stream: int) -> Callable[..., None]:
    """Return cuBLAS's own function, for a stream that is captured: CuPy's refuses there."""
    library = _cublas()

    def multiply(handle: int, *given: int) -> None:
        number, wide, at = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
        matrix = (at, number, number, wide)
        kinds = (*[number] * 5, at, *matrix, *matrix, at, *matrix, *[number] * 3)
        values = (kind(value) for kind, value in zip(kinds, given, strict=True))
        status = library.cublasSetStream_v2(at(handle), at(stream))
        status = status or library.cublasGemmStridedBatchedEx(at(handle), *values)
        if status:
            raise RuntimeError(f"cuBLAS: status {status} while a graph is captured")

    return multiply


def ones(xp: Any, count: int, dtype: Any) -> Array:
    """[1, 1, count] of ones, which add rows up."""
    return xp.full((1, 1, count), 1, dtype)
