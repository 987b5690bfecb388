from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pydeform._shapes import ConvGeometry

Array: TypeAlias = NDArray[Any]
Maybe: TypeAlias = NDArray[Any] | None

def deform_conv(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    weight: Array,
    bias: Maybe,
    mask: Maybe,
    out: Array,
) -> None: ...
def deform_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Maybe,
    weight: Array,
    mask: Maybe,
    grads: tuple[Maybe, ...],
    deterministic: bool,
) -> None: ...
def deform_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    weight: Array,
    bias: Maybe,
    mask: Maybe,
    tangents: tuple[Maybe, ...],
    out: Maybe,
    out_tangent: Array,
) -> None: ...
def deform_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: tuple[Maybe, ...],
    grad_output: Array,
    input: Array,
    offset: Maybe,
    weight: Array,
    mask: Maybe,
    results: tuple[Maybe, ...],
) -> None: ...
def local_conv(
    geometry: ConvGeometry, input: Array, offset: Maybe, kernel: Maybe, out: Array
) -> None: ...
def local_conv_backward(
    geometry: ConvGeometry,
    grad_output: Array,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    grads: tuple[Maybe, ...],
) -> None: ...
def local_conv_jvp(
    geometry: ConvGeometry,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    tangents: tuple[Maybe, ...],
    output: Maybe,
    output_tangent: Array,
) -> None: ...
def local_conv_double_backward(
    geometry: ConvGeometry,
    grad_grads: tuple[Maybe, ...],
    grad_output: Array,
    input: Array,
    offset: Maybe,
    kernel: Maybe,
    grads: tuple[Maybe, ...],
) -> None: ...
def sample(
    geometry: ConvGeometry, deriv: tuple[int, ...], input: Array, offset: Maybe, out: Array
) -> None: ...
def splat(
    geometry: ConvGeometry, deriv: tuple[int, ...], values: Array, offset: Maybe, out: Array
) -> None: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def max_threads() -> int: ...
def set_workspace(size: int) -> None: ...
def get_workspace() -> int: ...
def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array: ...
def build_info() -> dict[str, Any]: ...
