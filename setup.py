"""The extension module; everything else about the package is in pyproject.toml."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError


class BuildExt(build_ext):
    """Choose flags by compiler, and leave OpenMP out where it does not compile."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        link = [] if msvc else ["-fopenmp"]
        if os.environ.get("PYDEFORM_NO_OPENMP") or not (msvc or self.compiles_with(openmp)):
            openmp, link = [], []
        for extension in self.extensions:
            extension.extra_compile_args += (
                ["/std:c11", "/O2"]
                if msvc
                else ["-O3", "-g0", "-std=gnu11", "-Wno-psabi", "-Wno-unknown-pragmas"]
            )
            extension.extra_compile_args += openmp
            extension.extra_link_args += link
            if sanitizer := os.environ.get("PYDEFORM_SANITIZE"):  # see .ci/sanitize
                flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
                extension.extra_compile_args += ["-O0", "-g", *flags]
                extension.extra_link_args += [f"-fsanitize={sanitizer}"]
        if not msvc:
            self.compile_side_by_side()
        super().build_extensions()

    def compile_side_by_side(self):
        """Compile as many files at a time as there are processors: some take a minute."""
        one_after_the_other = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda file: one_after_the_other([file], **options), sources)
                return [path for paths in objects for path in paths]

        self.compiler.compile = compile_all

    def compiles_with(self, flags):
        """Whether a program with an OpenMP header compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "openmp_probe.c")
            with open(source, "w") as file:
                file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }")
            try:
                objects = self.compiler.compile([source], output_dir="/", extra_postargs=flags)
                self.compiler.link_executable(objects, source[:-2], extra_postargs=flags)
            except (CompileError, LinkError) as error:
                print(f"pydeform: building without OpenMP threads ({error})", file=sys.stderr)
                return False
        return True


setup(
    ext_modules=[
        Extension(
            "pydeform._cpu",
            sources=["pydeform/_cpu.pyx", *sorted(glob("pydeform/_cpu/isa_*.c"))],
            depends=sorted(glob("pydeform/_cpu/*.pxi") + glob("pydeform/_cpu/*.h")),
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
