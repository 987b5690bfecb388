"""What the loader launches is what was asked for, on the host execution and on a GPU."""

import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from pydeform._gpu import _declared, _loader
from pydeform._gpu._host import schedule
from pydeform._gpu._loader import launch

FOLDER = Path(__file__).parent
DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "half_t": np.float16,
    "bf16_t": ml_dtypes.bfloat16,
}


@pytest.mark.parametrize("index", ["int", "int64_t"])
@pytest.mark.parametrize("kind", DTYPES)
def test_shared_memory_and_every_type(place, kind, index):
    compute = "double" if kind == "double" else "float"
    x = np.arange(600).astype(DTYPES[kind])
    y = np.zeros_like(x)
    args = [x, y, np.int64(x.size), np.float64(0.5)]
    place.launch("launches", "reverse", (kind, compute, index), (3,), (256,), args, 256 * 8)
    padded = np.zeros(768)
    padded[:600] = x.astype(float) / 2
    turned = padded.reshape(3, 256)[:, ::-1].ravel()
    assert (y == turned[:600].astype(DTYPES[kind])).all()


@pytest.mark.parametrize(
    ("grid", "block"),
    [((5,), (7,)), ((2, 3), (4, 8)), ((2, 3, 2), (2, 3, 4)), ((1,), (1,)), ((400,), (33,))],
)
def test_every_thread_of_every_block_runs_once(place, grid, block):
    blocks, threads = np.prod(grid), np.prod(block)
    y = np.full((blocks, threads), -1)
    place.launch("launches", "where", (), grid, block, [y])
    assert (y == np.arange(blocks)[:, None] * 1000 + np.arange(threads)).all()


def test_no_blocks_are_no_launch(place):
    y = np.full(4, -1)
    place.launch("launches", "where", (), (4, 0), (1,), [y])
    assert (y == -1).all()


@pytest.mark.parametrize("instance", [("float", "1"), ("float", "4")])
def test_packs(place, instance):
    x = np.random.default_rng(0).standard_normal(1024, dtype=np.float32)
    y = np.zeros_like(x)
    count = x.size // int(instance[1])
    place.launch("launches", "copy", instance, (count // 128,), (128,), [x, y])
    assert (y == x).all()


def test_exchange_between_lanes(place):
    x = np.random.default_rng(0).integers(0, 100, 64, dtype=np.int32)
    y = np.zeros((11, 64), np.int32)
    place.launch("launches", "lanes", (), (1,), (64,), [x, y])
    lane, start = np.arange(64) % 32, np.arange(64) // 32 * 32
    warps = x.reshape(2, 32)

    def take(source):
        return x[start + source]

    assert (y[0] == take((lane + 1) % 32)).all()
    assert (y[1] == take(lane ^ 5)).all()
    assert (y[2] == take(np.where(lane + 3 < 32, lane + 3, lane))).all()
    assert (y[3] == take(np.where(lane % 16 >= 3, lane - 3, lane))).all()
    assert (y[4] == take(lane // 8 * 8 + 1)).all()
    assert (y[5] == np.repeat(warps.sum(1), 32)).all()
    assert (y[6] == np.repeat(x.reshape(8, 8).sum(1), 8)).all()
    votes = ((warps & 1) << np.arange(32)).sum(1).astype(np.uint32)
    assert (y[7].view(np.uint32) == np.repeat(votes, 32)).all()
    assert (y[8] == np.repeat((warps == 7).any(1) + 2, 32)).all()
    assert (y[9] == take(np.where(lane < 16, lane ^ 8, lane ^ 4))).all()
    assert (y[10] == (x & 1).sum()).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
def test_atomic_sums(place, kind):
    x = np.arange(3000).astype(kind)
    y = np.zeros(1, kind)
    name = {np.float32: "float", np.float64: "double", np.int32: "int"}[kind]
    place.launch("launches", "sum", (name,), (12,), (256,), [x, y, x.size])
    assert y[0] == x.sum()  # exact in any order


@pytest.mark.parametrize("kind", ["half_t", "bf16_t"])
def test_conversions_are_numpys(place, kind):
    """All 16-bit values, all midpoints between neighbours, and what lies beside those."""
    dtype = np.dtype(DTYPES[kind])
    values = np.arange(2**16, dtype=np.uint16).view(dtype).astype(np.float32)
    finite = np.unique(values[np.isfinite(values)])
    middle = (finite[1:].astype(float) + finite[:-1]) / 2
    middle = middle.astype(np.float32)
    x = np.concatenate(
        [values, middle, *(np.nextafter(middle, np.float32(s)) for s in (-np.inf, np.inf)),
         np.float32([65519.99, 65520, 65536, 1e10, 3.4e38, 1e-8, 2.9802322e-08, 0, -0.0])]
    )  # fmt: skip
    if place.name == "cuda":
        # CuPy compiles with -ftz.
        x = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x)
    bits, back = np.zeros(x.size, np.uint16), np.zeros(x.size, np.float32)
    place.launch("launches", "convert", (kind,), (64,), (256,), [x, bits, back, x.size])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype)
    nan = np.isnan(x)
    assert (bits[nan] == 0x7FFF).all()
    assert np.isnan(back[nan]).all()
    assert (bits[~nan] == expected[~nan].view(np.uint16)).all()
    assert (back[~nan] == expected[~nan].astype(np.float32)).all()


@pytest.mark.parametrize("kind", ["half_t", "bf16_t"])
def test_tensor_cores(place, kind):
    rng = np.random.default_rng(0)
    a = rng.integers(-8, 9, (16, 16)).astype(DTYPES[kind])
    b = rng.integers(-8, 9, (16, 8)).astype(DTYPES[kind])
    d = rng.integers(-8, 9, (16, 8)).astype(np.float32)
    expected = d + a.astype(np.float32) @ b.astype(np.float32)
    place.launch("launches", "product", (kind,), (1,), (32,), [a, b, d])
    assert (d == expected).all()


@pytest.mark.parametrize("rounded", [True, False])
def test_tf32_operands(place, rounded):
    """Rounded by the kernel, or cut off by the tensor cores."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, s).astype(np.float32) for s in ((16, 8), (8, 8)))
    d = np.zeros((16, 8), np.float32)
    if rounded:
        a[3] += np.float32(2**-20)  # less than half of TF32's spacing at these numbers
    a[5, 0], a[5, 1:] = 1 + 2**-11, 0  # half of it: away from zero
    expected = np.round(a) @ b
    expected[5] = np.float32(1 + 2**-10 if rounded else 1) * b[0]
    place.launch("launches", "product_tf32", (str(int(rounded)),), (1,), (32,), [a, b, d])
    assert (d == expected).all()


def test_a_launch_says_what_is_wrong_with_it(place):
    x = np.zeros(64, np.float32)
    y = np.zeros(64, np.float32)

    def run(kernel="copy", instance=("float", "1"), block=(64,), args=(x, y)):
        place.launch("launches", kernel, instance, (1,), block, list(args))

    with pytest.raises(ValueError, match=r"kernel: .*launches.cu declares \['convert', .*'copied'"):
        run("copied")
    with pytest.raises(ValueError, match=r"does not declare copy<float, 3>.* copy<float, 4>"):
        run(instance=("float", "3"))
    with pytest.raises(ValueError, match=r"block: copy takes up to 256 threads, got \(16, 17\)"):
        run(block=(16, 17))
    with pytest.raises(ValueError, match="expected contiguous"):
        run(args=(x[::2], y))
    if place.name == "emulated":
        with pytest.raises(ValueError, match="args: copy_args has 2 members, got 3"):
            run(args=(x, y, 5))


def test_declarations():
    found = _declared.kernels(str(FOLDER / "launches.cu"))
    assert found["where"].instances == [()]
    assert found["copy"].instances == [("float", "1"), ("float", "4")]
    assert len(found["reverse"].instances) == 8
    assert found["copy"].instructions(("float", "4")) == {"LDG.E.128", "STG.E.128"}
    assert found["copy"].instructions(("float", "1")) == set()
    assert found["reverse"].ceiling(("float", "float", "int")) == 32


def test_bounds_of_instances(tmp_path):
    text = (
        "// kernel: made args=made_args threads=512 registers=128\n"
        "// instances: T,A = float,float | double,double; V = 1 | 2\n"
        "// threads: *,*,2 = 256\n// registers: *,*,2 = 64\n// registers: double,*,2 = 200\n"
        "template <class T, class A, int V> __device__ void made(const made_args&) {}"
    )
    path = source(tmp_path, text)
    kernel = _declared.kernels(path)["made"]
    bounds = {("double", "1"): "512, 1", ("float", "2"): "256, 4", ("double", "2"): "256, 1"}
    for (number, wide), expected in bounds.items():
        instance = (number, number, wide)
        assert f"PYD_BOUNDS({expected}) " in _declared.device_stub(kernel, instance)
    launch(path, "made", ("float", "float", "1"), (1,), (512,), [np.zeros(1, np.int32)])
    with pytest.raises(ValueError, match=r"block: made takes up to 256 threads, got \(512,\)"):
        launch(path, "made", ("float", "float", "2"), (1,), (512,), [np.zeros(1, np.int32)])


def source(tmp_path, text):
    path = tmp_path / "made.cu"
    path.write_text('#include "_types.cuh"\nstruct made_args { int* y; };\n' + text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("// instances: T = float", "instances before any kernel"),
        ("// kernel: made args=made_args", "expected NAME args= threads="),
        ("// kernel: made args=a threads=1 regs=3", "expected NAME args= threads="),
        (
            "// kernel: made args=made_args threads=1\n// instances: T,A = float",
            r"expected choices of 2, got 'T,A = float'",
        ),
    ],
)
def test_declarations_that_are_wrong(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        _declared.kernels(source(tmp_path, text))


def test_headers_are_joined_once_and_lines_keep_their_names(tmp_path):
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("#pragma once\nint b;\n")
    (tmp_path / "c.cu").write_text('#include "a.cuh"\n#include "b.cuh"\n#include <cmath>\nint c;\n')
    text = _declared.joined(str(tmp_path / "c.cu"))
    assert [line for line in text.splitlines() if line] == [
        '#line 1 "c.cu"', '#line 1 "a.cuh"', '#line 1 "b.cuh"', "int b;",
        '#line 3 "a.cuh"', "int a;", '#line 2 "c.cu"', "#include <cmath>", "int c;",
    ]  # fmt: skip


def test_a_source_that_does_not_compile_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PYDEFORM_CACHE_DIR", str(tmp_path))
    text = (
        "// kernel: made args=made_args threads=1\n__device__ void made(const made_args& a) { a }"
    )
    with pytest.raises(RuntimeError, match=r"made-made: .*\n(.*\n)*made.cu:.*error"):
        launch(source(tmp_path, text), "made", (), (1,), (1,), [np.zeros(1, np.int32)])


def test_schedules_nest():
    text = str(FOLDER / "faults.cu")
    x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)

    def raced():
        launch(text, "racing_blocks", ("1",), (2,), (64,), [x, y, 64])
        return y[1]

    with schedule(1):
        assert raced() == 0  # block 0 came last
        with schedule(0):
            assert raced() == 1
        assert raced() == 0


class Array:
    """Of CuPy, as far as a launch looks."""

    flags = SimpleNamespace(c_contiguous=True)

    def __init__(self, pointer):
        self.data = SimpleNamespace(ptr=pointer)


def test_what_cupy_is_given(monkeypatch):
    made, launched, device = [], [], [0]

    class RawKernel:
        def __init__(self, code, name, options=()):
            made.append((code, name, options))

        def __call__(self, grid, block, args, shared_mem):
            launched.append((grid, block, [(a.size, a.tobytes()) for a in args], shared_mem))

        def __setattr__(self, name, value):
            launched.append((name, value))

    runtime = SimpleNamespace(getDevice=lambda: device[0])
    cupy = SimpleNamespace(RawKernel=RawKernel, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_loader, "_asked", {})
    _loader._device_kernel.cache_clear()
    source = str(FOLDER / "launches.cu")

    def run(shared):
        args = [Array(2**60), None, np.int32(-3), 0.5]
        instance = ("half_t", "float", "int")
        launch(source, "reverse", instance, (3, 2), (128,), args, shared, cupy)

    run(64)
    packed = struct.pack("=qqqd", 2**60, 0, -3, 0.5)
    assert launched == [((3, 2), (128,), [(1, packed)], 64)]
    (code, name, options) = made[0]
    assert name == "reverse__half_t_float_int_kernel"
    assert options == ("-std=c++17",)
    assert "struct half_t" in code  # headers are in it: the key of CuPy's cache is the code
    assert '#include "' not in code
    assert code.count(f" {name}(PYD_ARGUMENTS reverse_args a)") == 1
    assert "PYD_BOUNDS(256, 4)" in code

    launched.clear()
    for number, shared in [(0, 48 * 1024), (0, 50_000), (0, 50_000), (0, 60_000), (1, 50_000)]:
        device[0] = number
        run(shared)
    asked = [call[1] for call in launched if call[0] == "max_dynamic_shared_size_bytes"]
    assert asked == [50_000, 60_000, 50_000]
    assert len(made) == 1
    _loader._device_kernel.cache_clear()
