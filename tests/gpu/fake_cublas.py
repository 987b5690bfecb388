"""A stand-in for cuBLAS on the host: what its manual says of cublasGemmStridedBatchedEx.

Matrices are counted by columns, C = alpha op(A) op(B) + beta C, and come as addresses.
"""

import contextlib
import ctypes
import sys
import types
from unittest import mock

import ml_dtypes
import numpy as np

# As in CUDA's library_types.h and cublas_api.h.
KINDS = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
HANDLE = 7
COMPUTED = {68: np.float32, 70: np.float64, 77: np.float32}
calls = []


def _at(address, kind, count):
    size = np.dtype(KINDS[kind]).itemsize
    memory = (ctypes.c_char * (count * size)).from_address(address)
    return np.frombuffer(memory, KINDS[kind])


def _matrix(address, kind, rows, columns, leading):
    """[rows, columns] counted by columns, `leading` elements from one to the next."""
    assert leading >= max(rows, 1)
    flat = _at(address, kind, leading * (columns - 1) + rows)
    steps = (flat.itemsize, leading * flat.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), steps)


def gemm(
    handle, turn_a, turn_b, m, n, k, alpha, a, kind_a, ld_a, step_a, b, kind_b, ld_b, step_b,
    beta, c, kind_c, ld_c, step_c, count, computed, algorithm,
):  # fmt: skip
    assert (handle, algorithm) == (HANDLE, -1)
    # The combinations that its table of types has, of those that are wanted.
    pairs = {(2, 0, 68), (14, 0, 68), (0, 0, 68), (0, 0, 77), (1, 1, 70)}
    assert kind_a == kind_b
    assert (kind_a, kind_c, computed) in pairs
    calls.append(computed)
    work = COMPUTED[computed]
    scalar = 1 if work == np.float64 else 0
    alpha, beta = (_at(address, scalar, 1)[0] for address in (alpha, beta))
    for i in range(count):
        sizes = [np.dtype(KINDS[kind]).itemsize for kind in (kind_a, kind_b, kind_c)]
        at = [
            x + i * s * z
            for x, s, z in zip((a, b, c), (step_a, step_b, step_c), sizes, strict=True)
        ]
        one = _matrix(at[0], kind_a, *((k, m) if turn_a else (m, k)), ld_a).astype(work)
        two = _matrix(at[1], kind_b, *((n, k) if turn_b else (k, n)), ld_b).astype(work)
        out = _matrix(at[2], kind_c, m, n, ld_c)
        found = alpha * ((one.T if turn_a else one) @ (two.T if turn_b else two))
        out[...] = found if beta == 0 else found + beta * out


class Library:
    """The same as functions of C are called: with numbers of a width."""

    def __init__(self):
        self.streams = []

    def cublasSetStream_v2(self, handle, stream):
        assert handle.value == HANDLE
        self.streams.append(stream.value or 0)
        return 0

    def cublasGemmStridedBatchedEx(self, *given):
        gemm(*(number.value for number in given))
        return 0


@contextlib.contextmanager
def installed():
    """Put it where CuPy has cuBLAS."""
    runtime = types.SimpleNamespace(CUDA_R_32F=0, CUDA_R_64F=1, CUDA_R_16F=2, CUDA_R_16BF=14)
    cublas = types.SimpleNamespace(
        CUBLAS_OP_N=0,
        CUBLAS_OP_T=1,
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_COMPUTE_64F=70,
        CUBLAS_COMPUTE_32F_FAST_TF32=77,
        CUBLAS_GEMM_DEFAULT=-1,
        gemmStridedBatchedEx=gemm,
    )
    device = types.SimpleNamespace(get_cublas_handle=lambda: HANDLE)
    calls.clear()
    with mock.patch.dict(
        sys.modules,
        {
            "cupy.cuda": types.SimpleNamespace(device=device),
            "cupy.cuda.device": device,
            "cupy_backends": types.SimpleNamespace(),
            "cupy_backends.cuda": types.SimpleNamespace(),
            "cupy_backends.cuda.api": types.SimpleNamespace(runtime=runtime),
            "cupy_backends.cuda.libs": types.SimpleNamespace(cublas=cublas),
        },
    ):
        yield
