"""Documentation of derivatives, made of that of the function they belong to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_SECTION = re.compile(r"\n\n(?=[A-Z][A-Za-z ]+\n-{3,}\n)")


def _section(doc: str, title: str) -> str:
    """Return what a numpydoc docstring says under a title."""
    for part in _SECTION.split(doc):
        head, _, body = part.partition("\n")
        if head == title:
            return body.partition("\n")[2].strip("\n")
    raise LookupError(title)


_NEEDS = """needs : iterable of str, optional
    Names of what to differentiate by; all that are given by default."""
_RAISES = """TypeError
    As for `{name}`, and if a mapping or an iterable of names is none.
ValueError
    As for `{name}`, and if cotangents or tangents have not the shapes of what they belong to, or
    names are unknown."""
_BACKWARD = """Compute the gradients of <grad_output, output> of `{name}`.

Parameters
----------
grad_output : array, shape of the output
    Cotangent of the output.
{parameters}
{needs}

Returns
-------
named tuple ({fields})
    One gradient per array argument, of its shape; None where absent or not needed.
"""
_JVP = """Compute the output of `{name}` and its derivative along tangents.

Parameters
----------
{parameters}
tangents : mapping from names of arguments to arrays
    Directions, of the shapes of the arguments; a missing one is zero.

Returns
-------
tuple of two arrays
    Output and tangent of the output.
"""
_DOUBLE = """Compute the gradients of the gradients of `{name}`.

Parameters
----------
grad_grads : mapping from names of arguments to arrays
    Cotangents of what `{name}_backward` returns; a missing one is zero.
grad_output : array, shape of the output
    As given to `{name}_backward`.
{parameters}
{needs}

Returns
-------
named tuple ({fields})
    Gradients of the sum over names of <grad_grads[name], gradient of name>; None where absent or
    not needed.
"""
_TAIL = """
Raises
------
{raises}

See Also
--------
{name} : The operation.

Examples
--------
>>> import numpy as np, pydeform
>>> {first} = {array}
{example}
"""
_EXAMPLES = {
    "_backward": """>>> output = pydeform.{path}({call})
>>> grads = pydeform.{path}_backward(np.ones_like(output), {call})
>>> grads.{first}.shape == {first}.shape
True""",
    "_jvp": """>>> along = {{"{first}": np.ones_like({first})}}
>>> output, tangent = pydeform.{path}_jvp({call}, tangents=along)
>>> tangent.shape == output.shape
True""",
    "_double_backward": """>>> output = pydeform.{path}({call})
>>> along = {{"{first}": np.ones_like({first})}}
>>> grads = pydeform.{path}_double_backward(along, np.ones_like(output), {call})
>>> grads.grad_output.shape == output.shape
True""",
}
_DOCS = {"_backward": _BACKWARD, "_jvp": _JVP, "_double_backward": _DOUBLE}


def docstring(
    suffix: str,
    function: Callable[..., Any],
    fields: tuple[str, ...],
    first: str,
    example: tuple[str, str],
) -> str:
    """Return the docstring of a derivative, whose name ends in `suffix`.

    `fields` are those of its result, `first` is the function's first argument.
    """
    name, (array, call) = function.__name__, example
    path = f"offsets.{name}" if ".offsets." in function.__module__ else name
    return (_DOCS[suffix] + _TAIL).format(
        name=name,
        parameters=_section(inspect.getdoc(function) or "", "Parameters"),
        needs=_NEEDS,
        fields=", ".join(fields),
        raises=_RAISES.format(name=name),
        first=first,
        array=array,
        example=_EXAMPLES[suffix].format(path=path, first=first, call=call),
    )
