"""`vjp`: the gradients of a recipe, or of any function written as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pydeform import _arrays
from pydeform._arrays import NumpyArray, describe
from pydeform.ops._checks import check_like
from pydeform.recipes._tape import Traced, gradients


def _is_array(value: Any) -> bool:
    return hasattr(value, "__dlpack__")


def _on_cpu(name: str, value: Any) -> NumpyArray:
    device = _arrays.device_of(name, value)
    if device != "cpu":
        raise TypeError(
            f"{name}: expected arrays on the CPU, where vjp computes, got one on {device}"
        )
    return _arrays.as_array(name, value)


def _walk(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return `value` with every array in it, in tuples and lists too, replaced by leaf(array)."""
    if isinstance(value, tuple | list):
        items = [_walk(item, leaf) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return leaf(value)


def vjp(
    recipe: Callable[..., Any], *args: Any, **options: Any
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """Return the output of a recipe, and the function that takes a gradient back to its arguments.

    Reverse-mode differentiation on NumPy: the recipe runs once on arrays that remember how they
    were made, and the second result walks back along them with the adjoints of elementary
    operations and the `_backward` functions of this package's operations.

    Parameters
    ----------
    recipe : callable
        A function of arrays, of `pydeform.recipes` or `pydeform.parts` or written in their way:
        array API functions of ``x.__array_namespace__()``, and this package's operations taken from
        `pydeform.recipes`, such as ``recipes.deform_conv2d``. It returns one array.
    *args : arrays and whatever else the recipe takes
        NumPy arrays, or other arrays on the CPU with DLPack; tuples and lists of them too.
    **options : numbers and other settings
        Passed by name as they are; no arrays.

    Returns
    -------
    output : array
        ``recipe(*args, **options)``, of the kind of the first array.
    pullback : callable
        From a gradient of the output, of its shape and dtype, to a tuple with one gradient per
        argument. None for what is no array of floating point; a tuple or list gives one of
        gradients. It can be called more than once.

    Raises
    ------
    TypeError
        If no argument is a floating-point array, an option is an array, or the recipe returns
        something else than one array that depends on its arguments.
    ValueError
        If the gradient given to `pullback` has not the shape of the output.

    See Also
    --------
    pydeform.deform_conv2d_backward : The gradients of one operation.

    Examples
    --------
    >>> import numpy as np
    >>> from pydeform import recipes
    >>> def energy(x, w):
    ...     xp = x.__array_namespace__()
    ...     return xp.sum(recipes.deform_conv1d(x, None, w) ** 2)
    >>> x, w = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    >>> output, pullback = recipes.vjp(energy, x, w)
    >>> output
    array(18.)
    >>> grad_x, grad_w = pullback(np.ones(()))
    >>> grad_x, grad_w
    (array([[[ 6., 12., 12.,  6.]]]), array([[[12., 12., 12.]]]))
    """
    for name, value in options.items():
        if _is_array(value):
            raise TypeError(
                f"{name}: expected an option that is no array, got {describe(value)}; "
                "pass arrays by position"
            )
    leaves: list[tuple[Traced, Callable[[Any], Any]]] = []

    def trace(value: Any) -> Any:
        if not _is_array(value):
            return value
        array = _on_cpu("args", value)
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
            return array
        leaves.append((Traced(array), _arrays.giver(value)))
        return leaves[-1][0]

    traced = _walk(args, trace)
    if not leaves:
        raise TypeError("args: expected at least one array of floating point, got none")
    output = recipe(*traced, **options)
    if not isinstance(output, Traced):
        raise TypeError(
            "recipe: expected a function that returns one array made of its arguments, "
            f"got {describe(output)}"
        )

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        grad = _on_cpu("cotangent", cotangent)
        check_like("cotangent", grad, "the output", output.shape, output.dtype)
        found = gradients(output, grad, [leaf for leaf, _ in leaves])
        given: Iterator[Any] = (give(grad) for (_, give), grad in zip(leaves, found, strict=True))
        grads: tuple[Any, ...] = _walk(
            traced, lambda x: next(given) if isinstance(x, Traced) else None
        )
        return grads

    return leaves[0][1](output.value), pullback
