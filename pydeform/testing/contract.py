"""What the contract of `tests/test_contract.py` asks of an operation: one `Operation` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hypothesis.strategies import SearchStrategy

from pydeform.testing import counted
from pydeform.testing.bounds import Expected
from pydeform.testing.cases import Case, Results
from pydeform.testing.values import SPOILED

#: Kinds of values on which every sum is exact, and results are compared to the bit.
EXACT = ("dyadic", "kinks")
#: Kinds for finite differences, with the largest relative error. On dyadic values every step is
#: exact in float64. On random ones 1e-11 is what the package promises; what is lost is some 1e-15,
#: the rounding of sums over a few hundred terms.
DIFFERENCES = {"dyadic interior": 0.0, "interior": 1e-11}
DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Operation:
    """An operation as the contract sees it.

    Attributes
    ----------
    name
        Public name; its derivatives are ``<name>_backward``, ``_jvp`` and ``_double_backward``.
    cases
        From a kind of values (see `pydeform.testing.values`) to a strategy for cases.
    examples
        Cases that no draw is likely to hit, by name, made from a kind: wide, long, empty, of size
        one.
    reference
        Every result of a case in its own types. Default: the operation on the executable
        specification.
    expected
        Every result in `longdouble`, with its a-priori bound. Default: by
        `pydeform.testing.counted`, for which the operation has to take object arrays there.
    exact
        The kinds on which results are exact in float32, in any order of summation. Empty for what
        has an exponential or a root in it: adjoints and symmetry are then held to `rounding`.
    differences
        The kinds for finite differences, and the largest relative error.
    spoiled
        The kinds with NaN and infinities, and the results that the specification defines then, by
        how their names begin; of the others only the finite numbers are compared.
    dtypes
        Those that the operation takes.
    backends
        Those that it runs on.
    narrow_columns
        Backends that round columns to 16-bit storage before they multiply them: `expected` has to
        take `columns`, the dtype.
    rounding
        Relative error of adjoints and symmetry where nothing is exact, in float64.
    """

    name: str
    cases: Callable[[str], SearchStrategy[Case]]
    examples: Mapping[str, Callable[[str], Case]] = field(default_factory=dict)
    reference: Callable[[Case], Results] = counted.reference
    expected: Callable[..., dict[str, Expected]] = counted.expected
    exact: tuple[str, ...] = EXACT
    differences: Mapping[str, float] = field(default_factory=lambda: DIFFERENCES)
    spoiled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dtypes: tuple[str, ...] = DTYPES
    backends: tuple[str, ...] = ("ref", "cpu", "emulated")
    narrow_columns: tuple[str, ...] = ()
    rounding: float = 1e-12

    def __post_init__(self) -> None:
        unknown = set(self.spoiled) - set(SPOILED)
        if unknown:
            raise ValueError(f"spoiled: expected kinds among {tuple(SPOILED)}, got {unknown}")

    def expected_on(self, backend: str, case: Case) -> dict[str, Expected]:
        """Return every result with the bound that holds on a backend."""
        if backend in self.narrow_columns and case.dtype.itemsize == 2:
            return self.expected(case, columns=case.dtype)
        return self.expected(case)

    @property
    def plain(self) -> tuple[str, ...]:
        """The kinds for identities: exact ones where there are any."""
        return self.exact or ("random",)
