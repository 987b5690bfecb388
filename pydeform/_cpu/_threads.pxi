# Which vector code runs, and on how many threads.

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static int pyd_openmp(void) { return 1; }
    static int pyd_processors(void) { return omp_get_num_procs(); }
    #else
    static int pyd_openmp(void) { return 0; }
    static int pyd_processors(void) { return 1; }
    #endif
    #if defined(__clang__)
    #define PYD_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define PYD_COMPILER "GCC " __VERSION__
    #else
    #define PYD_COMPILER "unknown (one number at a time)"
    #endif
    """
    int pyd_openmp() nogil
    int pyd_processors() nogil
    const char* PYD_COMPILER

_LEVELS = ("baseline", "avx2", "avx512")

cdef int _level = 0
cdef int _threads = 1
cdef int64_t _workspace = 0


def _choose_level():
    """Index into _LEVELS of the vector code to use; PYDEFORM_CPU may ask for a lower one."""
    best = pyd_best_level()
    wanted = os.environ.get("PYDEFORM_CPU", "").strip().lower()
    if not wanted:
        return best
    if wanted not in _LEVELS:
        raise ImportError(f"PYDEFORM_CPU={wanted!r}: expected one of {', '.join(_LEVELS)}")
    level = _LEVELS.index(wanted)
    if level > best:
        raise ImportError(
            f"PYDEFORM_CPU={wanted!r}: this processor runs {_LEVELS[best]!r} at most")
    return level


def _default_threads():
    """PYDEFORM_NUM_THREADS, else OMP_NUM_THREADS, else every processor this process may use."""
    for name in ("PYDEFORM_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if not text:
            continue
        if text.isdecimal() and int(text) > 0:
            return min(int(text), 1024)
        if name == "PYDEFORM_NUM_THREADS":
            raise ImportError(f"{name}={text!r}: expected a positive integer")
    return max_threads()


def _default_workspace():
    """PYDEFORM_WORKSPACE_MIB in bytes, or 64 MiB."""
    text = os.environ.get("PYDEFORM_WORKSPACE_MIB", "").strip()
    if not text:
        return 64 << 20
    if not text.isdecimal() or int(text) >= 1 << 42:
        raise ImportError(f"PYDEFORM_WORKSPACE_MIB={text!r}: expected a number of MiB")
    return int(text) << 20


def max_threads():
    """Processors this process may use; 1 without OpenMP."""
    if hasattr(os, "sched_getaffinity"):
        return min(pyd_processors(), len(os.sched_getaffinity(0)))
    return pyd_processors()


def set_num_threads(int n):
    """Use at most n threads from now on, in the whole process."""
    global _threads
    _threads = n


def get_num_threads():
    """The number of threads that an operation may use."""
    return _threads


def set_workspace(int64_t size):
    """Let copies of images take so many bytes, a thread's share and what threads share."""
    global _workspace
    _workspace = size


def get_workspace():
    """The number of bytes that copies of images may take."""
    return _workspace


def build_info():
    """What was built and what runs here."""
    return {
        "compiler": (<bytes> PYD_COMPILER).decode(),
        "openmp": bool(pyd_openmp()),
        "vector_levels": list(_LEVELS[: pyd_best_level() + 1]),
        "vector_level": _LEVELS[_level],
    }


_level = _choose_level()
_threads = _default_threads()
_workspace = _default_workspace()


cdef int threads_for(double multiplications, int64_t tasks) noexcept:
    """No more threads than tasks, and none for work that ends before they would have started."""
    cdef double useful = multiplications / 2e5
    cdef int64_t n = _threads
    if not pyd_openmp():
        return 1
    if useful < n:
        n = <int64_t> useful
    if tasks < n:
        n = tasks
    return <int> n if n > 1 else 1
