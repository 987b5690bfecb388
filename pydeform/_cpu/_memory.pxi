# Memory that stays with the process between calls: fresh memory costs a page fault every 4 KiB,
# which takes longer than to fill it.

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock

import numpy

cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __linux__
    #include <sys/mman.h>
    #endif
    /* Rows of channels lie all over an image: with few pages their addresses are found at once. */
    static void *pyd_fresh(size_t size) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        void *block;
        const size_t page = (size_t)1 << 21;
        if (size >= page) {
            if (posix_memalign(&block, page, size)) return NULL;
            madvise(block, size, MADV_HUGEPAGE); /* where it is refused, small pages do */
            return block;
        }
    #endif
        return malloc(size);
    }
    """
    void* pyd_fresh(size_t size)

cdef enum:
    KEPT_BYTES = 64 << 20  # stay with the process, workspace and freed results together
    KEPT_BLOCKS = 48
    HUGE_PAGE = 2 << 20
    FEW_BYTES = 64 << 10  # below this the C library keeps memory itself

cdef struct Kept:
    char* block
    int64_t size
    int64_t since  # the oldest go first, so that what was large once does not stay

cdef Kept[KEPT_BLOCKS] _kept
cdef int64_t _kept_bytes = 0
cdef int64_t _kept_clock = 0
# Nobody waits for it: a result may be freed by the garbage collector while its thread is in here,
# and a fork may copy it locked. Who does not get it does without what was kept.
cdef void* _kept_lock = <void*> PyThread_allocate_lock()


cdef void drop(int slot) noexcept:
    global _kept_bytes
    free(_kept[slot].block)
    _kept_bytes -= _kept[slot].size
    _kept[slot].block = NULL


cdef char* find_block(int64_t* size) noexcept:
    """A block of at least `size` bytes, and no more than an eighth larger; or NULL."""
    global _kept_bytes
    cdef int i, best = -1
    cdef char* block = NULL
    if _kept_lock == NULL or not PyThread_acquire_lock(_kept_lock, 0):
        return NULL
    for i in range(KEPT_BLOCKS):
        if (_kept[i].block != NULL and size[0] <= _kept[i].size <= size[0] + size[0] // 8
                and (best < 0 or _kept[i].size < _kept[best].size)):
            best = i
    if best >= 0:
        block, size[0] = _kept[best].block, _kept[best].size
        _kept[best].block = NULL
        _kept_bytes -= size[0]
    PyThread_release_lock(_kept_lock)
    return block


cdef char* open_block(int64_t* size) except NULL:
    """Memory for at least `size` bytes; says how many it has."""
    cdef char* block
    cdef int64_t page = HUGE_PAGE if size[0] >= HUGE_PAGE else 4096
    size[0] = (size[0] + page - 1) // page * page
    block = find_block(size)
    if block == NULL:
        block = <char*> pyd_fresh(<size_t> size[0])
    if block == NULL:
        raise MemoryError(f"pydeform: no memory for {size[0]} bytes")
    return block


cdef void close_block(char* block, int64_t size) noexcept:
    """Keep a block, or free it."""
    global _kept_bytes, _kept_clock
    cdef int i, oldest, room
    if (size > KEPT_BYTES or _kept_lock == NULL
            or not PyThread_acquire_lock(_kept_lock, 0)):
        free(block)
        return
    while True:
        oldest = room = -1
        for i in range(KEPT_BLOCKS):
            if _kept[i].block == NULL:
                room = i
            elif oldest < 0 or _kept[i].since < _kept[oldest].since:
                oldest = i
        if room >= 0 and _kept_bytes + size <= KEPT_BYTES:
            break
        drop(oldest)
    _kept_clock += 1
    _kept[room].block, _kept[room].size, _kept[room].since = block, size, _kept_clock
    _kept_bytes += size
    PyThread_release_lock(_kept_lock)


cdef enum:
    BLOCKS_OF_A_CALL = 64

cdef class Memory:
    """Aligned blocks that live as long as this object."""

    cdef char* block[BLOCKS_OF_A_CALL]
    cdef int64_t size[BLOCKS_OF_A_CALL]
    cdef int count

    cdef char* take(self, int64_t size, bint zeroed=False) except NULL:
        cdef char* block
        if self.count == BLOCKS_OF_A_CALL:
            raise MemoryError("pydeform: too many blocks in one call")
        size += 64
        block = open_block(&size)
        self.block[self.count], self.size[self.count] = block, size
        self.count += 1
        block = <char*> ((<uintptr_t> block + 63) & ~<uintptr_t> 63)
        if zeroed:
            memset(block, 0, <size_t> size - 64)
        return block

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            close_block(self.block[i], self.size[i])


cdef class _Result:
    """The memory of one array."""

    cdef char* block
    cdef int64_t size, used

    def __cinit__(self, int64_t used):
        self.used = used
        self.size = used + 64
        self.block = open_block(&self.size)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        cdef char* start = <char*> ((<uintptr_t> self.block + 63) & ~<uintptr_t> 63)
        PyBuffer_FillInfo(buffer, self, start, self.used, False, flags)

    def __dealloc__(self):
        if self.block != NULL:
            close_block(self.block, self.size)


def empty(shape, dtype):
    """An array like numpy.empty's, but in memory that freed results and workspace left."""
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if not FEW_BYTES <= size <= KEPT_BYTES - 4096:
        return numpy.empty(shape, dtype)
    return numpy.ndarray(shape, dtype, _Result(size))


cdef extern from *:
    """
    typedef struct { /* what NumPy's documentation says that __array_struct__ points to */
        int two, axes;
        char kind;
        int itemsize, flags;
        Py_ssize_t *shape, *strides;
        void *data;
        PyObject *description;
    } pyd_described;
    """
    ctypedef struct pyd_described:
        char kind
        int itemsize
        void* data


cdef pyd_described described(array) except *:
    """Where an array lies and what its elements are; much faster than __array_interface__."""
    capsule = array.__array_struct__
    return (<pyd_described*> PyCapsule_GetPointer(capsule, NULL))[0]


cdef inline int storage_of(const pyd_described* array) noexcept:
    if array.kind != b"f":
        return PYD_BFLOAT16
    return PYD_FLOAT16 if array.itemsize == 2 else PYD_NATIVE
