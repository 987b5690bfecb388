"""The CUDA backend for NumPy arrays on a machine with a GPU: what comes is copied there and back.

With it in place of "emulated" every test of the host execution runs on the device (`conftest.py`).
"""

from types import SimpleNamespace

import numpy as np

import pydeform._gpu
import pydeform._ref


def copied(function, xp):
    """The function of the backend, on copies of its arrays on the device."""

    def call(*args):
        pairs = []

        def there(value):
            if isinstance(value, tuple | list):
                return tuple(map(there, value)) if not hasattr(value, "_fields") else value
            if not isinstance(value, np.ndarray):
                return value
            pairs.append((value, xp.asarray(value)))
            return pairs[-1][1]

        function(*map(there, args))
        for here, moved in pairs:
            if here.flags.writeable:
                here[...] = moved.get()

    return call


def backend(xp):
    """A module with the functions that every backend has."""
    names = {name: getattr(pydeform._gpu, name) for name in pydeform._gpu.__all__}
    names |= {name: copied(names[name], xp) for name in pydeform._ref.__all__}
    return SimpleNamespace(**names)
