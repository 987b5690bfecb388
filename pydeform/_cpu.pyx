# distutils: language = c
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""The CPU backend: tiles of columns, sampled along channels and multiplied where they lie.

This file holds what is declared once; every operation is one include. The arithmetic is in the
kernels of ``_cpu/_simd.h``, compiled per instruction set; Cython plans, tiles and threads.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import os

cdef extern from "_cpu/_simd.h" nogil:
    enum:
        PYD_ZEROS, PYD_CLIP_ZERO, PYD_BORDER
        PYD_RIGHT, PYD_OPEN, PYD_MEAN
        PYD_NATIVE, PYD_FLOAT16, PYD_BFLOAT16

    ctypedef struct pyd_field:
        int rank, mode, kink, length, corners, wide, scaled
        int64_t size[3]
        int64_t step[3]
        int64_t first
        double scale[3]
        double start[3]

    ctypedef struct pyd_plan:
        int64_t stride, offset_row
        int differs, adjacent
        void* value
        void* slope
        void* weight
        int64_t* read
        int64_t* reach

    ctypedef struct pyd_matrix:
        char* data
        int storage
        int64_t row, column

    ctypedef struct pyd_planes:
        char* data
        int storage
        int64_t channel, first, count

    ctypedef struct pyd_kernels:
        int lanes, panel
        void (*plan)(const pyd_field*, const int64_t*, const int64_t*, const void*, int64_t, int,
                     pyd_plan*) noexcept nogil
        void (*corner_weights)(const pyd_field*, const pyd_plan*, int, const void*, int64_t, int,
                               void*) noexcept nogil
        void (*corners_read)(const pyd_field*, const pyd_plan*, const void*, int64_t,
                             int64_t*) noexcept nogil
        void (*contract)(const pyd_field*, const pyd_plan*, int, const void*, const void*, int64_t,
                         int, void*) noexcept nogil
        void (*contract_all)(const pyd_field*, const pyd_plan*, const void*, const void*, int64_t,
                             void*, void*, int64_t) noexcept nogil
        void (*blend)(int, int64_t, const int64_t*, const void*, const void*, const void*, int64_t,
                      int64_t, const void*, int, void*, int64_t) noexcept nogil
        void (*dots)(int, int64_t, const int64_t*, const void*, int64_t, const void*, int64_t,
                     int64_t, const void*, void*) noexcept nogil
        void (*scatter)(int, int64_t, const int64_t*, const void*, const void*, const void*,
                        int64_t, int64_t, int64_t, void*, void*) noexcept nogil
        void (*sweep)(int, const pyd_plan*, const void*, const void*, int64_t, const void*,
                      int64_t, int64_t, const void*, void*, void*, int64_t, void*,
                      void*) noexcept nogil
        void (*weigh)(int, int64_t, int64_t, const pyd_plan*, const void*, const void*, int64_t,
                      int64_t, const void*, int, void*, int64_t) noexcept nogil
        void (*weigh_back)(int, int64_t, int64_t, const pyd_plan*, const void*, const void*,
                           int64_t, const void*, int64_t, int64_t, const void*, void*,
                           void*) noexcept nogil
        void (*gather_blend)(int, const pyd_plan*, const void*, const pyd_planes*, int64_t,
                             int64_t, int, void*, int64_t) noexcept nogil
        void (*gather_sweep)(int, const pyd_plan*, const void*, const void*, int64_t,
                             const pyd_planes*, int64_t, int64_t, int, void*,
                             const pyd_planes*, void*) noexcept nogil
        void (*product)(int64_t, int64_t, int64_t, const void*, int64_t, int64_t, const void*,
                        int64_t, int64_t, void*, int64_t, int) noexcept nogil
        void (*multiply_each)(int64_t, int64_t, const void*, int64_t, const void*, void*, int64_t,
                              int) noexcept nogil
        void (*multiply_down)(int64_t, int64_t, const void*, int64_t, const void*, int64_t,
                              void*) noexcept nogil
        void (*load)(const pyd_matrix*, int64_t, int64_t, void*, int64_t) noexcept nogil
        void (*store)(const void*, int64_t, int64_t, int64_t, const void*,
                      const pyd_matrix*) noexcept nogil
        void (*row_sums)(const pyd_matrix*, int64_t, int64_t, void*) noexcept nogil
        void (*add)(const void*, const void*, int64_t, void*) noexcept nogil
        void (*add_rows)(const void*, int64_t, int64_t, void*, int64_t) noexcept nogil

    void pyd_expect(const void*)
    int pyd_best_level()
    const pyd_kernels* pyd_table(int level, int doubles)

include "_cpu/_threads.pxi"
include "_cpu/_memory.pxi"
include "_cpu/_job.pxi"
include "_cpu/_samples.pxi"
include "_cpu/deform_conv.pxi"
include "_cpu/deform_conv_few.pxi"
include "_cpu/_bands.pxi"
include "_cpu/_fan.pxi"
include "_cpu/local_conv.pxi"
include "_cpu/_blocks.pxi"
include "_cpu/_desk.pxi"
include "_cpu/deform_conv_backward.pxi"
include "_cpu/deform_conv_few_backward.pxi"
include "_cpu/local_conv_backward.pxi"
include "_cpu/sample.pxi"
