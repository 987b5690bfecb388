"""Numbers from one layout to another: scaled, moved and with their last axis turned around.

What operations with layouts of their own hand to `local_conv` and take back from it.
"""

from __future__ import annotations

from pydeform._ref.stencil import Array, Term


def relay(source: Array, scale: Array, start: Term, out: Array) -> None:
    """Write out[r, b, k, -1-a] = source[r, b, k, a] * scale[a] + start[k, a].

    `source` and `out` are [R, B, K, A] of any strides, but pairs (A = 2) lie side by side; `scale`
    is [A], `start` [K, A] or None for 0.
    """
    turned = out[..., ::-1]
    if start is None:
        turned[...] = source * scale
    else:
        turned[...] = source * scale + start
