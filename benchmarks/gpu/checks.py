"""Every function of the CUDA backend against the executable specification, on edge cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pydeform
from benchmarks.gpu.contest import short
from benchmarks.gpu.device import Device

Results = dict[str, NDArray[Any]]
Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Check:
    """The outcome of one example of one operation.

    Attributes
    ----------
    operation, example, dtype
        What was called: with its gradients, directional derivatives and gradients of gradients.
    compared
        "equal bits", or "a-priori bound" with the share of it that was used.
    wrong
        What differs; empty where nothing does.
    """

    operation: str
    example: str
    dtype: str
    compared: str
    wrong: str


def evaluate(case: Any, device: Device) -> Results:
    """Return all results of a case of `pydeform.testing`, computed on a device."""

    def placed(value: Any) -> Any:
        return device.array(value) if isinstance(value, np.ndarray) else value

    call = {name: placed(value) for name, value in (case.arrays | case.options).items()}
    tangents = {name: placed(array) for name, array in case.tangents.items()}
    cotangent = placed(case.grad_output)
    of = [attrgetter(case.operation + kind)(pydeform)
          for kind in ("", "_jvp", "_backward", "_double_backward")]  # fmt: skip
    with device.backend():
        primal, tangent = of[1](**call, tangents=tangents)
        found = {
            "output": of[0](**call),
            "output of jvp": primal,
            "output_tangent": tangent,
            **{f"grad_{k}": a for k, a in of[2](cotangent, **call)._asdict().items()},
            **{f"second_{k}": a for k, a in of[3](tangents, cotangent, **call)._asdict().items()},
        }
    return {name: device.numpy(array) for name, array in found.items() if array is not None}


def same_bits(got: Results, want: Results) -> str:
    """Say which results are not what exact ones round to; empty where all are."""
    wrong = []
    for name, exact in want.items():
        once = exact.astype(np.float64 if got[name].dtype == np.float64 else np.float32)
        rounded = once.astype(got[name].dtype).astype(np.float64)
        if not np.array_equal(got[name].astype(np.float64), rounded, equal_nan=True):
            wrong.append(name)
    return ", ".join(wrong)


def exact_check(operation: Any, example: str, dtype: Any, device: Device) -> tuple[str, str]:
    """Compare one example on values whose sums are all exact."""
    case = operation.examples[example](operation.exact[0]).astype(dtype)
    want = operation.reference(case.map(lambda array: array.astype(np.longdouble)))
    return "equal bits", same_bits(evaluate(case, device), want)


def bound_check(operation: Any, example: str, dtype: Any, device: Device) -> tuple[str, str]:
    """Compare one example on random values with the a-priori bound."""
    case = operation.examples[example]("random").astype(dtype)
    expected = operation.expected(case)
    units = {name: expected[name].units(found) for name, found in evaluate(case, device).items()}
    wrong = [name for name, used in units.items() if not used <= 1]
    return f"a-priori bound, {max(units.values()):.2f} of it", ", ".join(wrong)


def dtypes() -> dict[str, Any]:
    """Return the types that can be checked: bfloat16 where ml_dtypes is installed."""
    found: dict[str, Any] = {n: np.dtype(n) for n in ("float64", "float32", "float16")}
    try:
        import ml_dtypes
    except ImportError:
        return found
    return found | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def work(count: int, names: tuple[str, ...]) -> Iterator[tuple[Any, str, str]]:
    """Return operations, examples and dtypes: the first `count` examples, and a dtype for each.

    Dtypes take turns, so that with four examples every operation meets every dtype.
    """
    from pydeform.testing.operations import OPERATIONS

    known = list(dtypes())
    for operation in OPERATIONS:
        if names and operation.name not in names:
            continue
        examples = sorted(operation.examples, key=lambda name: "empty" in name)  # these say least
        for number, example in enumerate(examples[:count]):
            usable = [name for name in known if name in operation.dtypes]
            yield operation, example, usable[number % len(usable)]


def run(device: Device, count: int, say: Say, names: tuple[str, ...] = ()) -> list[Check]:
    """Check `count` examples of every operation, or of those that are named."""
    plan, found = list(work(count, names)), []
    for number, (operation, example, dtype) in enumerate(plan):
        say(f"check {operation.name}", number / len(plan))
        for check in (exact_check, bound_check):
            # In 16 bits and float32 alike the bound is dear; one of both kinds is enough there.
            if check is exact_check and not operation.exact:
                continue
            if check is bound_check and operation.exact and dtype != "float32":
                continue
            try:
                compared, wrong = check(operation, example, dtypes()[dtype], device)
            except Exception as error:  # noqa: BLE001  (the others are checked all the same)
                compared, wrong = "nothing", short(error)
            found.append(Check(operation.name, example, dtype, compared, wrong))
    return found
