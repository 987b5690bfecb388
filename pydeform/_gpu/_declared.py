"""Sources of kernels: joined into one text, and what they declare of their kernels.

A source `X.cu` includes headers of this folder and declares each kernel in comments::

    // kernel: columns args=columns_args threads=256 registers=96
    // instances: T,A = float,float | double,double | half_t,float; R = 1 | 2 | 3; V = 1 | 16B
    // threads: double,*,3 = 128
    // registers: double = 128
    // sass: *,*,*,16B = LDG.E.128
    template <class T, class A, int R, int V>
    __device__ void columns(const columns_args& a) { ... }

`threads` bounds the block; `registers` is what a thread may have at most: the compiler is told how
many blocks are to fit into a multiprocessor, and tests hold it to the number, and to no spills. The
instances of a line are all combinations of its axes, in the order of the template's parameters;
lines add up; a kernel without a line is no template. `16B` is the number of T in 16 bytes.
`threads` and `registers` give bounds of their own to instances that begin so (`*`: whatever stands
there; the last line that fits counts), `sass` names instructions that tests find in their machine
code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)
_DECLARATION = re.compile(r"^// (kernel|instances|threads|registers|sass):[ \t]*(.*)$")
_BYTES = {"float": 4, "double": 8, "half_t": 2, "bf16_t": 2}

NO_CEILING = 256  # a thread has 255 registers at most
# Registers of a multiprocessor, and threads of it that are planned for: all have as many.
_REGISTERS, _THREADS = 65536, 1024

Instance = tuple[str, ...]


@dataclass
class Kernel:
    """What a source declares of one kernel."""

    name: str
    args: str
    threads: list[tuple[Instance, int]]
    registers: list[tuple[Instance, int]]
    sass: list[tuple[Instance, tuple[str, ...]]] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)

    def symbol(self, instance: Instance) -> str:
        """Name the function of an instance, in C."""
        return re.sub(r"\W", "_", "_".join((self.name, "", *instance, "kernel")))

    def call(self, instance: Instance) -> str:
        """Name the instance in C++."""
        return f"{self.name}<{', '.join(instance)}>" if instance else self.name

    def ceiling(self, instance: Instance) -> int:
        """Registers that a thread of the instance may have at most."""
        return _last(self.registers, instance)

    def block(self, instance: Instance) -> int:
        """Threads that a block of the instance has at most."""
        return _last(self.threads, instance)

    def blocks(self, instance: Instance) -> int:
        """Blocks that are to fit into a multiprocessor, so that the ceiling is kept."""
        at_a_time = min(_REGISTERS // self.ceiling(instance), _THREADS)
        return max(1, at_a_time // self.block(instance))

    def instructions(self, instance: Instance) -> set[str]:
        """Instructions that the instance claims to have."""
        return {name for start, names in self.sass if _begins(instance, start) for name in names}


def _last(numbers: list[tuple[Instance, int]], instance: Instance) -> int:
    return [number for start, number in numbers if _begins(instance, start)][-1]


def _begins(instance: Instance, start: Instance) -> bool:
    return len(start) <= len(instance) and all(
        pattern in {"*", text} or (pattern == "16B" and text == _in_16_bytes(instance))
        for pattern, text in zip(start, instance, strict=False)
    )


def _in_16_bytes(instance: Instance) -> str:
    return str(16 // next((_BYTES[text] for text in instance if text in _BYTES), 16))


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


def _fields(text: str) -> Instance:
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def _combinations(line: str) -> list[Instance]:
    axes = []
    for axis in line.split(";"):
        names, _, choices = axis.partition("=")
        found = [_fields(choice) for choice in choices.split("|")]
        if any(len(choice) != len(_fields(names)) or "" in choice for choice in found):
            raise ValueError(
                f"instances: expected choices of {len(_fields(names))}, got {axis.strip()!r}"
            )
        axes.append(found)
    instances = []
    for chosen in product(*axes):
        instance = tuple(text for choice in chosen for text in choice)
        wide = _in_16_bytes(instance)
        instances.append(tuple(wide if text == "16B" else text for text in instance))
    return instances


def _kernel(line: str) -> Kernel:
    name, *options = line.split()
    given = dict(option.split("=", 1) for option in options)
    numbers = {"threads": "", "registers": str(NO_CEILING), **given}
    args = numbers.pop("args", "")
    if len(numbers) != 2 or not args or not all(n.isdecimal() for n in numbers.values()):
        raise ValueError(f"kernel: expected NAME args= threads= [registers=], got {line!r}")
    threads, registers = int(numbers["threads"]), int(numbers["registers"])
    return Kernel(name, args, [((), threads)], [((), registers)])


@cache
def kernels(source: str) -> dict[str, Kernel]:
    """Kernels that a source (with its headers) declares, by name."""
    found: dict[str, Kernel] = {}
    for line in joined(source).splitlines():
        match = _DECLARATION.match(line)
        if match is None:
            continue
        kind, text = match[1], match[2]
        if kind == "kernel":
            latest = _kernel(text)
            found[latest.name] = latest
            continue
        if not found:
            raise ValueError(f"{source}: {kind} before any kernel: {line!r}")
        start, _, value = text.partition("=")
        if kind == "instances":
            latest.instances += _combinations(text)
        elif kind in {"threads", "registers"}:
            numbers = latest.threads if kind == "threads" else latest.registers
            numbers.append((_fields(start), int(value)))
        else:
            latest.sass.append((_fields(start), tuple(value.split())))
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


def sources() -> list[str]:
    """Sources of this package."""
    names = (file.name for file in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".cu") for name in names if name.endswith(".cu"))


def device_stub(kernel: Kernel, instance: Instance) -> str:
    """Source of the function that the GPU starts."""
    bounds = f"PYD_BOUNDS({kernel.block(instance)}, {kernel.blocks(instance)})"
    return (
        f'extern "C" __global__ void {bounds} '
        f"{kernel.symbol(instance)}(PYD_ARGUMENTS {kernel.args} a) "
        f"{{ {kernel.call(instance)}(a); }}\n"
    )
