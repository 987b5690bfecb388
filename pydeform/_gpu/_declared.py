"""Sources of kernels: joined into one text, and what they declare of their kernels.

A source `X.cu` includes headers of this folder and declares each kernel in comments::

    // kernel: columns args=columns_args threads=256 registers=96 sass=LDG.E.128
    // instances: T,A = float,float | double,double | half_t,float; R = 1 | 2 | 3; V = 1 | 16B
    template <class T, class A, int R, int V>
    __device__ void columns(const columns_args& a) { ... }

The instances of a line are all combinations of its axes, in the order of the template's parameters;
lines add up; a kernel without a line is no template. `16B` is the number of T in 16 bytes.
`threads` bounds the block, `registers` is a ceiling that tests hold the compiler to, and `sass`
names instructions (separated by commas) that tests find in each instance; `sass@float,float,2=...`
claims it for instances that begin so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)
_KERNEL = re.compile(r"^// kernel:[ \t]*(\w+)[ \t]*(.*)$")
_INSTANCES = re.compile(r"^// instances:[ \t]*(.*)$")
_BYTES = {"float": 4, "double": 8, "half_t": 2, "bf16_t": 2}

Instance = tuple[str, ...]


@dataclass
class Kernel:
    """What a source declares of one kernel."""

    name: str
    args: str
    threads: int
    registers: int = 255
    sass: dict[Instance, tuple[str, ...]] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)

    def symbol(self, instance: Instance) -> str:
        """Name the function of an instance, in C."""
        return re.sub(r"\W", "_", "_".join((self.name, "", *instance, "kernel")))

    def call(self, instance: Instance) -> str:
        """Name the instance in C++."""
        return f"{self.name}<{', '.join(instance)}>" if instance else self.name


def _read(name: str, beside: Path | None) -> str:
    """Text of a source of this package, or of a file beside another source."""
    if beside is not None and (beside / name).is_file():
        return (beside / name).read_text(encoding="utf-8")
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def joined(source: str) -> str:
    """Return `source`.cu with all headers of this package in it, each once.

    One text, so that a cache whose key is the text covers them. A path that ends in .cu is a source
    outside the package; its headers are looked for beside it first.
    """
    path = Path(source)
    name, beside = (path.name, path.parent) if path.suffix == ".cu" else (f"{source}.cu", None)
    seen: set[str] = set()

    def expand(name: str) -> str:
        seen.add(name)
        text = _read(name, beside).replace("#pragma once\n", "\n")
        parts, start = [f'#line 1 "{name}"\n'], 0
        for match in _INCLUDE.finditer(text):
            parts.append(text[start : match.start()])
            line = text.count("\n", 0, match.start()) + 2
            if match[1] not in seen:
                parts += [expand(match[1]), f'\n#line {line} "{name}"']
            start = match.end()
        return "".join([*parts, text[start:]])

    return expand(name)


def _combinations(line: str) -> list[Instance]:
    axes = []
    for axis in line.split(";"):
        names, _, choices = axis.partition("=")
        count = len(names.split(","))
        axis_choices = [
            tuple(c.strip() for c in choice.split(",")) for choice in choices.split("|")
        ]
        if any(len(choice) != count or "" in choice for choice in axis_choices):
            raise ValueError(f"instances: {axis.strip()!r}: expected {count} of each choice")
        axes.append(axis_choices)
    found = []
    for chosen in product(*axes):
        instance = tuple(text for choice in chosen for text in choice)
        sizes = [_BYTES[text] for text in instance if text in _BYTES]
        found.append(tuple(str(16 // sizes[0]) if t == "16B" else t for t in instance))
    return found


def _kernel(name: str, options: str) -> Kernel:
    known = {"args": "", "threads": "", "registers": "255"}
    sass = {}
    for option in options.split():
        key, _, value = option.rpartition("=")
        if key.partition("@")[0] == "sass":
            prefix = key.partition("@")[2]
            sass[tuple(prefix.split(",")) if prefix else ()] = tuple(value.split(","))
        elif key in known:
            known[key] = value
        else:
            raise ValueError(f"kernel {name}: unknown option {option!r}")
    if not known["args"] or not known["threads"]:
        raise ValueError(f"kernel {name}: expected args= and threads=, got {options!r}")
    return Kernel(name, known["args"], int(known["threads"]), int(known["registers"]), sass)


@cache
def kernels(source: str) -> dict[str, Kernel]:
    """Kernels that a source (with its headers) declares, by name."""
    found: dict[str, Kernel] = {}
    latest = None
    for line in joined(source).splitlines():
        if match := _KERNEL.match(line):
            latest = found[match[1]] = _kernel(match[1], match[2])
        elif match := _INSTANCES.match(line):
            if latest is None:
                raise ValueError(f"{source}: instances before any kernel: {line!r}")
            latest.instances += _combinations(match[1])
    for kernel in found.values():
        kernel.instances = list(dict.fromkeys(kernel.instances)) or [()]
    return found


def find(source: str, kernel: str, instance: Instance) -> Kernel:
    """Return what is declared of a kernel, after making sure that it has the instance."""
    declared = kernels(source).get(kernel)
    if declared is None:
        raise ValueError(f"kernel: {source} declares {sorted(kernels(source))}, got {kernel!r}")
    if instance not in declared.instances:
        raise ValueError(
            f"instance: {source} does not declare {declared.call(instance)}; it declares "
            + ", ".join(declared.call(i) for i in declared.instances)
        )
    return declared


def device_stub(kernel: Kernel, instance: Instance) -> str:
    """Source of the function that the GPU starts."""
    return (
        f'extern "C" __global__ void __launch_bounds__({kernel.threads}) '
        f"{kernel.symbol(instance)}(const __grid_constant__ {kernel.args} a) "
        f"{{ {kernel.call(instance)}(a); }}\n"
    )
