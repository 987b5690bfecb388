"""What a deformable convolution accepts: every check before the first byte is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from types import NoneType
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

import numpy as np

from pydeform import _shapes
from pydeform._arrays import NumpyArray, describe
from pydeform._shapes import AXES, ConvGeometry

ARGUMENTS = ("input", "offset", "weight", "bias", "mask")
MODES = ("zeros", "clip_zero", "border")
KINKS = ("right", "open", "mean")
LAYOUTS = ("channels_first", "channels_last")

PerAxis: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Pair: TypeAlias = tuple[SupportsIndex, SupportsIndex]
Padding: TypeAlias = SupportsIndex | str | Sequence[SupportsIndex] | Sequence[Pair]
Mode: TypeAlias = Literal["zeros", "clip_zero", "border"]
Kink: TypeAlias = Literal["right", "open", "mean"]
Layout: TypeAlias = Literal["channels_first", "channels_last"]


class Options(NamedTuple):
    """What a caller may choose beside the arrays, as it was written."""

    stride: object
    padding: object
    dilation: object
    groups: object
    offset_groups: object
    mode: object
    kink: object
    layout: object


def choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value`, checked to be one of the choices."""
    if not isinstance(value, str):
        raise TypeError(
            f"{name}: expected one of {choices}, got {value!r} ({type(value).__name__})"
        )
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")
    return value


def names(name: str, value: object, present: Sequence[str]) -> tuple[str, ...]:
    """Return an iterable of argument names as a tuple; None means all that are present."""
    if value is None:
        return tuple(present)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f'{name}: expected an iterable of argument names such as ("input", "weight"), '
            f"got {value!r} ({type(value).__name__})"
        )
    wanted = tuple(value)
    for item in wanted:
        if item not in present:
            raise ValueError(
                f"{name}: expected names among {tuple(present)}, which were given, got {item!r}"
            )
    return wanted


def mapping(name: str, value: object, known: Sequence[str]) -> dict[str, Any]:
    """Return a mapping from argument names to arrays as a dict without its None entries."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name}: expected a mapping from names among {tuple(known)} to arrays, "
            f"got {describe(value)}"
        )
    for key in value:
        if key not in known:
            raise ValueError(f"{name}: expected names among {tuple(known)}, got {key!r}")
    return {key: item for key, item in value.items() if item is not None}


@cache  # NumPy makes the name anew every time
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype; longdouble has a different one on every machine."""
    if dtype.char == "g":
        return "longdouble"
    return dtype.name if dtype.isnative else f"{dtype.name} in foreign byte order"


def check_dtypes(
    arrays: Mapping[str, NumpyArray],
    accepted: Sequence[str],
    main: str = "input",
    wide: Sequence[str] = ("offset", "mask"),
) -> None:
    """Check that all share the dtype of `main`; those in `wide` may be float32 beside 16 bits."""
    dtypes = {array.dtype for array in arrays.values()}
    if len(dtypes) == 1 and dtype_name(*dtypes) in accepted:
        return
    found = {name: dtype_name(array.dtype) for name, array in arrays.items()}
    for name, dtype in found.items():
        if dtype not in accepted:
            hint = (
                f"; convert it first, as in {name}.astype(numpy.float32)"
                if dtype != "object"
                else ""
            )
            raise TypeError(f"{name}: expected one of {tuple(accepted)}, got {dtype}{hint}")
    of_main = found[main]
    free = {name: dtype for name, dtype in found.items() if name in wide}
    others = {dtype for name, dtype in found.items() if name not in free}
    fine = {of_main, "float32"} if of_main in ("float16", "bfloat16") else {of_main}
    if others == {of_main} and len(set(free.values())) <= 1 and fine.issuperset(free.values()):
        return
    got = ", ".join(f"{name} {dtype}" for name, dtype in found.items())
    expected = "expected one dtype for all arrays"
    if wide and of_main in ("float16", "bfloat16"):
        may = f"{' and '.join(wide)} may {'both ' * (len(wide) == 2)}be float32"
        expected += f" ({may} beside {of_main})"
    raise TypeError(f"mixed dtypes: {expected}, got {got}")


class _Shape(NamedTuple):
    """All that the checks of a geometry look at in an array."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def ndim(self) -> int:
        return len(self.shape)


Shapes: TypeAlias = Mapping[str, _Shape]


def _ranks(arrays: Shapes, rank: int, last: bool) -> None:
    """Check how many axes each array has."""
    axes = ", ".join(AXES[rank])
    images = f"(batch, {axes}, channels)" if last else f"(batch, channels, {axes})"
    meanings = {
        "input": ((rank + 2,), images),
        "weight": (
            (rank + 2, rank + 3),
            f"(out_channels, channels/groups, {axes}), or a batch axis before them",
        ),
        "offset": ((rank + 2,), images),
        "mask": ((rank + 2,), images),
        "bias": ((1,), "(out_channels,)"),
    }
    for name, (ndims, meaning) in meanings.items():
        if name in arrays and arrays[name].ndim not in ndims:
            found = arrays[name]
            hint = ""
            if name in ("input", "offset", "mask") and found.ndim == rank + 1:
                hint = f"; a single sample needs its batch axis, as in {name}[None]"
            raise ValueError(
                f"{name}: expected {' or '.join(map(str, ndims))} dimensions {meaning}, "
                f"got {found.ndim}, shape {found.shape}{hint}"
            )
    for name in ("input", "weight"):
        shape = arrays[name].shape
        batched = name == "input" or len(shape) == rank + 3
        if 0 in shape[batched:]:
            raise ValueError(
                f"{name}: expected at least one element along every axis"
                f"{' but the batch' * batched}, got shape {shape}"
            )


def _with_channels(batch: int, channels: int, size: Sequence[int], last: bool) -> tuple[int, ...]:
    return (batch, *size, channels) if last else (batch, channels, *size)


def _layout_hint(last: bool) -> str:
    meant, holds = LAYOUTS[not last], LAYOUTS[last]
    return f"; the axes lie as with layout={meant!r}, but layout={holds!r} holds here"


def _positions_hint(
    name: str, array: _Shape, geometry: ConvGeometry, expected: tuple[int, ...]
) -> str:
    """Say what may have gone wrong with the shape of offset or mask."""
    last, rank, taps, out = geometry.channels_last, geometry.rank, geometry.taps, geometry.out_size
    wanted = expected[-1 if last else 1]
    found = array.shape[-1 if last else 1]
    size = array.shape[1:-1] if last else array.shape[2:]
    moved = array.shape[1 if last else -1]  # channels, should the layout be the other one
    per_group = wanted // geometry.offset_groups
    if moved % per_group == 0 and array.shape == _with_channels(
        geometry.batch, moved, out, not last
    ):
        return _layout_hint(last)
    hint = ""
    if found in (2 * wanted, wanted / 2):
        share = "twice" if found > wanted else "half"
        hint = f"; {share} the channels of {geometry.offset_groups} offset groups"
        if name == "offset" and rank == 2 and found < wanted:
            hint += f", or one offset a tap where there are two ({', '.join(AXES[rank])})"
    elif name == "offset" and found and found % ((rank + 1) * taps) == 0 and found != wanted:
        split = found // (rank + 1) * rank
        hint = f"; {found} channels hold offset and mask in one: split them after channel {split}"
    if size != out:
        relation = "smaller than" if prod(size) < prod(out) else "not"
        hint += (
            f"; a map of {size} is {relation} the output {out}, "
            "which follows from input, kernel, stride, padding and dilation"
        )
    return hint


def _check_positions(arrays: Shapes, geometry: ConvGeometry, given: bool) -> None:
    """Check the shapes of offset and mask."""
    last, rank, taps = geometry.channels_last, geometry.rank, geometry.taps
    for name, per_group, factors in (
        ("offset", taps * rank, f"{taps}*{rank}"),
        ("mask", taps, f"{taps}"),
    ):
        if name not in arrays:
            continue
        channels = geometry.offset_groups * per_group
        expected = _with_channels(geometry.batch, channels, geometry.out_size, last)
        if arrays[name].shape != expected:
            meaning = f"{geometry.offset_groups if given else 'offset_groups'}*{factors}"
            meaning = f"(batch, *output, {meaning})" if last else f"(batch, {meaning}, *output)"
            hint = _positions_hint(name, arrays[name], geometry, expected)
            raise ValueError(
                f"{name}: expected shape {expected} {meaning}, got {arrays[name].shape}{hint}"
            )


def _offset_groups(
    arrays: Shapes, channels: int, taps: int, rank: int, given: object, last: bool
) -> int:
    """Return the offset groups, which divide the channels: as given or as offset or mask has."""
    if given is not None:
        groups = _shapes.at_least(
            "offset_groups", _shapes.integer("offset_groups", given, "an int or None"), 1
        )
        if channels % groups:
            raise ValueError(
                f"offset_groups: expected a divisor of the {channels} input channels, got {groups}"
            )
        return groups
    for name, per_group in (("offset", taps * rank), ("mask", taps)):
        if name not in arrays:
            continue
        shape = arrays[name].shape
        found: int = shape[-1] if last else shape[1]
        groups = found // per_group
        if groups == 0 or found % per_group:
            continue  # no number of groups has this shape, which the check that follows tells
        if channels % groups:
            raise ValueError(
                f"{name}: expected offset groups that divide the {channels} input channels, "
                f"got {groups} ({found} channels / {per_group} per offset group), shape {shape}"
            )
        return groups
    return 1


_PLAIN = frozenset((int, str, NoneType, tuple))


def _are_plain(options: Iterable[object]) -> bool:
    """Tell whether no option equals one that means something else, as True equals 1."""
    tuples = [option for option in options if type(option) is tuple]
    return _PLAIN.issuperset(map(type, options)) and all(
        type(item) is int for option in tuples for item in option
    )


def geometry_of(rank: int, arrays: Mapping[str, NumpyArray], options: Options) -> ConvGeometry:
    """Check the shapes against each other and the options, and return the geometry."""
    shapes = {name: _Shape(array.shape, array.itemsize) for name, array in arrays.items()}
    if _are_plain(options):  # most calls have the shapes of an earlier one
        return _known_geometry(rank, tuple(shapes.items()), options)
    return _checked_geometry(rank, shapes, options)


@lru_cache(maxsize=256)
def _known_geometry(
    rank: int, shapes: tuple[tuple[str, _Shape], ...], options: Options
) -> ConvGeometry:
    return _checked_geometry(rank, dict(shapes), options)


def _checked_geometry(rank: int, arrays: Shapes, options: Options) -> ConvGeometry:
    mode = choice("mode", options.mode, MODES)
    kink = choice("kink", options.kink, KINKS)
    last = choice("layout", options.layout, LAYOUTS) == "channels_last"
    _ranks(arrays, rank, last)
    input, weight = arrays["input"].shape, arrays["weight"].shape
    batch, channels, size = input[0], input[-1 if last else 1], input[1:-1] if last else input[2:]
    per_sample = len(weight) == rank + 3
    out_channels, weight_channels = weight[-rank - 2], weight[-rank - 1]
    kernel = weight[-rank:]

    stride = _shapes.per_axis("stride", options.stride, rank, 1)
    dilation = _shapes.per_axis("dilation", options.dilation, rank, 1)
    pads = _shapes.padding_pairs(options.padding, size, kernel, stride, dilation)
    swapped = channels % weight_channels and input[1 if last else -1] % weight_channels == 0
    hint = f", input has shape {input}" + (_layout_hint(last) if swapped else "")
    groups = _shapes.conv_groups(channels, weight_channels, out_channels, options.groups, hint)
    if per_sample and weight[0] != batch:
        raise ValueError(
            f"weight: expected shape {(batch, *weight[1:])}, one kernel per sample of the batch, "
            f"got {weight}"
        )
    if "bias" in arrays and arrays["bias"].shape != (out_channels,):
        raise ValueError(
            f"bias: expected shape {(out_channels,)} (out_channels,), got {arrays['bias'].shape}"
        )
    geometry = ConvGeometry(
        batch=batch,
        channels=channels,
        out_channels=out_channels,
        groups=groups,
        offset_groups=_offset_groups(
            arrays, channels, prod(kernel), rank, options.offset_groups, last
        ),
        size=size,
        out_size=_shapes.output_size(size, pads, kernel, stride, dilation),
        kernel=kernel,
        stride=stride,
        pad=tuple(begin for begin, _ in pads),
        dilation=dilation,
        mode=mode,
        kink=kink,
        channels_last=last,
    )
    _shapes.check_bytes("output", output_shape(geometry), arrays["input"].itemsize)
    _check_positions(arrays, geometry, options.offset_groups is not None)
    return geometry


def output_shape(geometry: ConvGeometry) -> tuple[int, ...]:
    """Return the shape of the output."""
    return _with_channels(
        geometry.batch, geometry.out_channels, geometry.out_size, geometry.channels_last
    )


def check_like(
    name: str, array: NumpyArray, of: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Check that `array` has the shape and the dtype of what it belongs to."""
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, that of {of}, got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(
            f"{name}: expected dtype {dtype_name(dtype)}, that of {of}, "
            f"got {dtype_name(array.dtype)}"
        )
