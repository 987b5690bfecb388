"""AMD's compiler builds the kernels that run without tensor cores, for warps of 64 and of 32 lanes.

Where hipcc is installed (Debian: hipcc, libamdhip64-dev); no AMD GPU is needed, and none was used.
"""

import os
import re
import shutil
import subprocess

import pytest

from pydeform._gpu import _declared

pytestmark = pytest.mark.skipif(shutil.which("hipcc") is None, reason="hipcc is not installed")
ARCHITECTURES = {"gfx90a": 64, "gfx1030": 32}
# Tensor cores are NVIDIA's: there the convolution is columns and a product.
KERNELS = [
    (source, name)
    for source in _declared.sources()
    if source != "deform_conv"
    for name in _declared.kernels(source)
]


def compiled(code, arch, folder):
    """Assembly with its metadata."""
    path, out = folder / "kernels.hip", folder / "kernels.s"
    path.write_text(f"#include <hip/hip_runtime.h>\n{code}")
    flags = ["-x", "hip", f"--offload-arch={arch}", "-std=c++17", "-O2"]
    made = subprocess.run(
        ["hipcc", *flags, "--offload-device-only", "-S", "-o", out, path],
        env={**os.environ, "HIP_PLATFORM": "amd", "HIP_COMPILER": "clang"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[:2000]
    return out.read_text()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("source", "name"), KERNELS)
def test_every_instance_is_built_without_spills(source, name, arch, tmp_path):
    kernel = _declared.kernels(source)[name]
    stubs = "".join(_declared.device_stub(kernel, instance) for instance in kernel.instances)
    lanes = f"static_assert(PYD_WARP == {ARCHITECTURES[arch]});\n"
    text = compiled(f"{_declared.joined(source)}\n{lanes}{stubs}", arch, tmp_path)
    spilled = re.findall(r"\.vgpr_spill_count:\s+(\d+)", text)
    assert len(spilled) == len(kernel.instances)
    assert set(spilled) == {"0"}


def test_an_error_is_seen(tmp_path):
    with pytest.raises(AssertionError, match="undeclared identifier"):
        compiled("__global__ void kernel() { nothing_of_the_kind(); }", "gfx90a", tmp_path)
