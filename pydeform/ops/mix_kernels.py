"""Kernels mixed from experts, one per sample."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydeform._arrays import Array
from pydeform.ops._composed import Formulas, Terms, derivatives, namespace, run

A = TypeVar("A", bound=Array)


class _Plan(NamedTuple):
    batch: int
    experts: int
    kernel: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of the kernel's axes."""
        return len(self.kernel)


class _MixKernels(Formulas):
    """y[n] = sum_e weights[n, e] experts[e]: sums in the order of experts, or of samples.

    Sums are written out one by one, so that their bits depend on no library's threads.
    """

    names: ClassVar[tuple[str, ...]] = ("weights", "experts")
    half: ClassVar[bool] = True

    def plan(self, arrays: Terms, options: Any) -> _Plan:
        del options
        weights, experts = arrays["weights"].shape, arrays["experts"].shape
        if len(experts) < 1 or experts[0] == 0:
            raise ValueError(
                f"experts: expected shape (E, *kernel) with at least one expert, got {experts}"
            )
        if len(weights) != 2 or weights[1] != experts[0]:
            raise ValueError(
                f"weights: expected shape (N, {experts[0]}), one weight per sample and expert of "
                f"the {experts[0]}, got {weights}"
            )
        return _Plan(weights[0], experts[0], experts[1:])

    def shape(self, plan: _Plan) -> tuple[int, ...]:
        return (plan.batch, *plan.kernel)

    def _mix(self, plan: _Plan, weights: Any, experts: Any) -> Any:
        flat = namespace(experts).reshape(experts, (plan.experts, 1, prod(plan.kernel)))
        total = weights[:, 0, None] * flat[0, ...]
        for e in range(1, plan.experts):
            total = total + weights[:, e, None] * flat[e, ...]
        return total  # [N, prod(kernel)]

    def _grads(self, plan: _Plan, grad_output: Any, weights: Any, experts: Any) -> Terms:
        xp, length = namespace(grad_output), prod(plan.kernel)
        grad = xp.reshape(grad_output, (plan.batch, length))
        flat = xp.reshape(experts, (plan.experts, length))
        columns = [xp.sum(grad * flat[e, ...], axis=1) for e in range(plan.experts)]
        total = xp.zeros_like(flat)
        for n in range(plan.batch):
            total = total + weights[n, :, None] * grad[n, ...]
        shape = (plan.experts, *plan.kernel)
        return {"weights": xp.stack(columns, axis=1), "experts": xp.reshape(total, shape)}

    def forward(self, plan: _Plan, arrays: Terms) -> Any:
        mixed = self._mix(plan, arrays["weights"], arrays["experts"])
        return namespace(mixed).reshape(mixed, self.shape(plan))

    def jvp(self, plan: _Plan, tangents: Terms, arrays: Terms) -> Any:
        one = self._mix(plan, tangents["weights"], arrays["experts"])
        other = self._mix(plan, arrays["weights"], tangents["experts"])
        return namespace(one).reshape(one + other, self.shape(plan))

    def backward(self, plan: _Plan, grad_output: Any, arrays: Terms) -> Terms:
        return self._grads(plan, grad_output, arrays["weights"], arrays["experts"])

    def second(self, plan: _Plan, tangents: Terms, grad_output: Any, arrays: Terms) -> Terms:
        del arrays
        return self._grads(plan, grad_output, tangents["weights"], tangents["experts"])


_RULES = _MixKernels()


def mix_kernels(weights: A, experts: Array) -> A:
    """Mix kernels: a weighted sum of experts for every sample.

    Because a convolution is linear in its kernel, convolving each sample with its mixed kernel is
    mixing the outputs of all experts, at the cost of one convolution.

    Parameters
    ----------
    weights : array, shape (N, E)
        Weight of every expert for every sample, used as it is: no sigmoid, no softmax.
    experts : array, shape (E, *kernel)
        Kernels of any shape, such as (E, Co, C/groups, kH, kW); or biases (E, Co).

    Returns
    -------
    array, shape (N, *kernel)
        One kernel per sample, which `pydeform.deform_conv2d` and its like take as the weight.

    Raises
    ------
    TypeError
        If an argument is not an array, or dtypes are mixed or not float32, float64, float16 or
        bfloat16.
    ValueError
        If the numbers of experts differ, or there is none.

    See Also
    --------
    deform_conv2d : Takes a weight per sample.

    Notes
    -----
    float16 and bfloat16 are storage: arithmetic is float32. The bits of the result do not depend on
    the number of threads.

    References
    ----------
    .. [1] B. Yang et al., "CondConv: Conditionally Parameterized Convolutions for Efficient
       Inference", NeurIPS 2019.
    .. [2] Y. Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020.

    Examples
    --------
    >>> import numpy as np, pydeform
    >>> experts = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> pydeform.mix_kernels(np.array([[0.5, 0.5], [0.0, 1.0]]), experts)
    array([[0.5, 1. ],
           [0. , 2. ]])
    """
    return run(_RULES, {"weights": weights, "experts": experts}, {})  # type: ignore[no-any-return]


(
    mix_kernels_backward,
    mix_kernels_jvp,
    mix_kernels_double_backward,
) = derivatives(_RULES, mix_kernels, ("np.ones((2, 3))", "weights, np.ones((3, 4))"))
