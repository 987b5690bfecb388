"""NVIDIA's compiler takes every instance of every kernel, and makes of it what the source claims.

No GPU and no driver: NVRTC compiles to machine code, its log tells registers and spills, nvdisasm
shows the instructions. Every instance is compiled for sm_90a; for sm_80 and sm_120 as many as have
every template argument once (all of them where PYDEFORM_NVRTC=all). What was found is kept in the
cache of built kernels, by source and compiler.
"""

import ctypes
import hashlib
import json
import os
import re
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from pydeform._gpu import _declared
from pydeform._gpu._host import cache_folder

ALL, SOME = "sm_90a", ("sm_80", "sm_120")
CHUNK = 18  # instances a test, so that workers share them evenly
MEMORY = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
HERE = Path(__file__).parent


def nvidia(pattern):
    """A file of NVIDIA's packages; None where they are not installed."""
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else ()
    return next((path for f in folders for path in sorted(Path(f).glob(pattern))), None)


NVRTC = nvidia("*/lib/libnvrtc.so.*[0-9]") or nvidia("*/bin/**/nvrtc64_*.dll")
NVDISASM = nvidia("*/bin/nvdisasm*")
pytestmark = pytest.mark.skipif(
    NVRTC is None or NVDISASM is None,
    reason="NVIDIA's compiler is not installed: pip install 'pydeform[nvrtc]'",
)


@cache
def library():
    # NVRTC looks for it by name, not in its own folder: so it is loaded before.
    if builtins := nvidia("*/lib/libnvrtc-builtins.so.*[0-9]"):
        ctypes.CDLL(str(builtins))
    found = ctypes.CDLL(str(NVRTC))
    major, minor = ctypes.c_int(), ctypes.c_int()
    assert found.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
    return found, f"{major.value}.{minor.value}"


def text_of(program, what):
    size = ctypes.c_size_t()
    assert getattr(library()[0], f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(library()[0], f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw


def compiled(code, arch):
    """Machine code, and the log."""
    nvrtc = library()[0]
    program = ctypes.c_void_p()
    made = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None
    )
    assert made == 0
    # As the loader and CuPy have it.
    options = ["-std=c++17", f"-arch={arch}", "-ftz=true", "-default-device"]
    options.append("--ptxas-options=-v")
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), array)
    log = text_of(program, "ProgramLog").rstrip(b"\0").decode()
    assert status == 0, log
    code = text_of(program, "CUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log


def instructions(cubin):
    """Of each function, the names of its instructions, with all of their modifiers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        listing = subprocess.run(
            [NVDISASM, "-c", path], capture_output=True, text=True, check=True
        ).stdout
    found, name = {}, None
    for line in listing.splitlines():
        if match := re.match(r"\.text\.(\w+):", line):
            name = found.setdefault(match[1], set())
        elif match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", line):
            name.add(match[1])
    return found


def facts(source, kernel, instances, arch):
    """Registers, bytes of stack and of spills, and instructions of each instance."""
    stubs = "".join(_declared.device_stub(kernel, instance) for instance in instances)
    code = f"{_declared.joined(source)}\n{stubs}"
    key = hashlib.sha256(f"1 {library()[1]} {arch} {code}".encode()).hexdigest()[:24]
    kept = cache_folder() / f"{kernel.name}-{arch}-{key}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    cubin, log = compiled(code, arch)
    names = instructions(cubin) if kernel.sass else {}
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        stack, stores, loads = map(
            int,
            re.search(r"(\d+) bytes stack frame, (\d+) .* stores, (\d+) .* loads", part).groups(),
        )
        found[name] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "spilled": stores + loads,
            "stack": stack,
            "instructions": sorted(names.get(name, ())),
        }
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    part.replace(kept)
    return found


def complaints(source, kernel, instances, arch):
    """What the compiler made of the instances that is not as declared."""
    found = facts(source, kernel, instances, arch)
    said = []
    for instance in instances:
        fact, name = found[kernel.symbol(instance)], f"{arch}: {kernel.call(instance)}"
        ceiling = kernel.ceiling(instance)
        if fact["spilled"]:
            said.append(f"{name}: {fact['spilled']} bytes spilled")
        elif fact["stack"]:
            said.append(f"{name}: {fact['stack']} bytes of stack")
        if fact["registers"] > ceiling:
            said.append(f"{name}: {fact['registers']} registers, {ceiling} declared")
        for claim in sorted(kernel.instructions(instance)):
            have = (f"{i}." for i in fact["instructions"])
            if not any(i.startswith(f"{claim}.") for i in have):
                said.append(f"{name}: no {claim}")
    return said


def covering(instances):
    """A few instances that together have every template argument of all of them."""
    missing = {(i, text) for instance in instances for i, text in enumerate(instance)}
    chosen = []
    while missing:
        best = max(instances, key=lambda instance: len(missing & set(enumerate(instance))))
        missing -= set(enumerate(best))
        chosen.append(best)
    return chosen or instances


def listed():
    for source in [*_declared.sources(), str(HERE / "launches.cu")]:
        for kernel in _declared.kernels(source).values():
            for arch in (ALL, *SOME):
                every = arch == ALL or os.environ.get("PYDEFORM_NVRTC") == "all"
                chosen = kernel.instances if every else covering(kernel.instances)
                for start in range(0, len(chosen), CHUNK):
                    part = chosen[start : start + CHUNK]
                    name = f"{Path(source).stem}-{kernel.name}-{arch}-{start}"
                    yield pytest.param(source, kernel, part, arch, id=name)


@pytest.mark.parametrize(("source", "kernel", "instances", "arch"), list(listed()))
def test_every_instance_compiles_to_what_it_claims(source, kernel, instances, arch):
    assert complaints(source, kernel, instances, arch) == []


@pytest.mark.parametrize("source", _declared.sources())
def test_every_kernel_has_a_ceiling(source):
    kernels = _declared.kernels(source).values()
    assert [k.name for k in kernels if k.ceiling(()) == _declared.NO_CEILING] == []


SPILLS = """
#include "_types.cuh"
struct crowd_args { const float* x; float* y; };
// kernel: crowd args=crowd_args threads=1024 registers=32
// sass: = LDG.E.128 HMMA
__device__ void crowd(const crowd_args& a) {
  float all[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) all[i] = a.x[threadIdx.x + 1024 * i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) a.y[threadIdx.x + 1024 * i] = all[(5 * i + 1) % 96] * all[i];
}
// kernel: wander args=crowd_args threads=32 registers=255
__device__ void wander(const crowd_args& a) {
  float all[16];
  for (int i = 0; i < 16; ++i) all[i] = a.x[i];
  for (int i = 0; i < 16; ++i) all[int(a.x[i + 16]) & 15] += 1;
  for (int i = 0; i < 16; ++i) a.y[i] = all[i];
}
"""


def test_false_claims_are_seen(tmp_path):
    path = tmp_path / "crowd.cu"
    path.write_text(SPILLS)
    kernels = _declared.kernels(str(path))
    spills, *others = complaints(str(path), kernels["crowd"], [()], ALL)
    assert re.search(r"^sm_90a: crowd: \d+ bytes spilled$", spills)
    assert re.search(r"^sm_90a: crowd: \d+ registers, 32 declared$", others[0])
    assert others[1:] == ["sm_90a: crowd: no HMMA", "sm_90a: crowd: no LDG.E.128"]
    (stack,) = complaints(str(path), kernels["wander"], [()], ALL)
    assert re.search(r"^sm_90a: wander: \d+ bytes of stack$", stack)


def test_a_covering_has_every_argument():
    instances = _declared.kernels(str(HERE / "launches.cu"))["reverse"].instances
    chosen = covering(instances)
    assert len(chosen) < len(instances)
    for place in range(3):
        assert {i[place] for i in chosen} == {i[place] for i in instances}
