"""MetaImage (.mha, .mhd): a header in text, then voxels, as they are or in one zlib stream.

Not read by ITK's own reader, which trusts the header: a damaged one ends the process, opens files elsewhere on the
machine, or gives what was in memory for slices that are not in the file.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2snet.errors import InputError
from l2snet.images.claims import check_size, check_stored

Array = NDArray[Any]
T = TypeVar("T")

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Fields of one meaning, the one that files have first.
SPACING = ("ElementSpacing", "ElementSize")
ORIGIN = ("Offset", "Position", "Origin")
MATRIX = ("TransformMatrix", "Rotation", "Orientation")
# Places (mm) and cosines that are written with other numbers of digits.
ROUNDED = 1e-3
MSB = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
ONCE = {
    *(*SPACING, *ORIGIN, *MATRIX, *MSB),
    *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "CompressedData", "BinaryData", "HeaderSize"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
}
LAST, LOCAL = "ElementDataFile", "LOCAL"
# MetaIO takes either.
SEPARATOR = re.compile("[=:]")
CONTROL = frozenset(range(32)) - frozenset(b"\t\n\v\f\r")
# HeaderSize of voxels that end where the file ends, whatever is before them.
AT_THE_END = -1
# Headers of converters that copy every DICOM field into them stay far below.
MAX_HEADER_BYTES = 1 << 20
CHUNK = 1 << 20
# Either zlib's own header or gzip's.
ANY_HEADER = zlib.MAX_WBITS | 32


@dataclass(frozen=True)
class Header:
    """What a MetaImage says of its voxels; sizes and places in file order (x, y, z).

    Attributes
    ----------
    spacing_mm, origin_mm : numbers as they are written, finite or not.
    axes : (3, 3) rows; row k is the world direction (L, P, S) of file axis k.
    file, at : where the voxels begin.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    axes: Array
    dtype: np.dtype[Any]
    compressed: bool
    file: Path
    at: int


def read_header(path: Path) -> Header:
    """Read a header, and refuse one whose voxels the file cannot hold.

    Raises
    ------
    InputError : its subject is the file; a field is missing, doubled, at odds with another or has no sense, the image
        is not 3D and scalar, or the file is cut off.
    OSError : it cannot be opened.
    """
    fields, at = _fields(path)
    dimension, channels = (_integers(fields, name, 1, "1")[0] for name in ("NDims", "ElementNumberOfChannels"))
    if "NDims" not in fields or (dimension, channels) != (3, 1):
        raise InputError(f"it is a {dimension}D image with {channels} value(s) a voxel; expected a 3D image with one")
    (before,) = _integers(fields, "HeaderSize", 1, "0")
    if not _flag(fields, "BinaryData", True) or before not in (0, AT_THE_END):
        raise InputError("it has its voxels as text or behind a second header; expected plain binary ones")
    scale = _numbers(fields, ("ElementToIntensityFunctionSlope",), 1, "1")
    offset = _numbers(fields, ("ElementToIntensityFunctionOffset",), 1, "0")
    if (*scale, *offset) != (1.0, 0.0):
        raise InputError(
            f"it has values to be scaled by {scale[0]:g} and moved by {offset[0]:g}; expected them as they are"
        )
    kind = fields.get("ElementType", "")
    if kind not in TYPES:
        raise InputError(f"it has the ElementType {kind[:40]!r}; expected one of {', '.join(TYPES)}")
    size = _integers(fields, "DimSize", 3)
    check_size(size)
    big = any(_flag(fields, name, False) for name in MSB)
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
    compressed = _flag(fields, "CompressedData", False)
    file = _voxel_file(path, fields[LAST])
    at = at if file == path else 0
    stored, expected = file.stat().st_size - at, math.prod(size) * dtype.itemsize
    check_stored(stored, expected, compressed)
    if before == AT_THE_END and not compressed:
        at += stored - expected
    return Header(
        size=size,
        spacing_mm=_numbers(fields, SPACING, 3),
        origin_mm=_agreed(fields, ORIGIN, 3, "0 0 0"),
        axes=np.array(_agreed(fields, MATRIX, 9, "1 0 0 0 1 0 0 0 1")).reshape(3, 3),
        dtype=dtype,
        compressed=compressed,
        file=file,
        at=at,
    )


def read_voxels(header: Header, keep_integers: bool = False) -> Array:
    """(z, y, x) float32; integers in the file's own type where they are to be kept.

    Raises
    ------
    InputError : the file holds other than the header promises.
    OSError : it cannot be opened.
    """
    count = math.prod(header.size)
    with header.file.open("rb") as file:
        file.seek(header.at)
        if header.compressed:
            stored = _inflate(file, count * header.dtype.itemsize).view(header.dtype)
        else:
            stored = np.fromfile(file, header.dtype, count)
    dtype = header.dtype.newbyteorder("=") if keep_integers and header.dtype.kind in "iu" else np.float32
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        array: Array = stored.astype(dtype, copy=False)
    return array.reshape(header.size[::-1])


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields up to `LAST`, and where the byte after them is; lines of text that are no field are passed over."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < MAX_HEADER_BYTES:
            line = file.readline(MAX_HEADER_BYTES)
            key, *value = (part.strip() for part in SEPARATOR.split(line.decode("latin-1"), maxsplit=1))
            if not value:
                if not line or not CONTROL.isdisjoint(line):  # the end, or no text
                    break
                continue
            if key in fields and key in ONCE:
                raise InputError(f"its header has the field {key} twice; expected it once: convert the image again")
            fields[key] = value[0]
            if key == LAST:
                return fields, file.tell()
    raise ValueError(f"its header ends without {LAST}")


def _voxel_file(path: Path, named: str) -> Path:
    """Where the voxels are: behind the header, or in a file beside a .mhd."""
    if named.upper() == LOCAL:
        return path
    place = Path(os.fsdecode(named.encode("latin-1")))
    may_be_beside = path.suffix.lower() == ".mhd" and place.name and place.parent == Path()
    beside = path.with_name(place.name) if may_be_beside else None
    if beside is None or not beside.is_file():
        raise InputError(
            f"it says that its voxels are in {named[:80]!r}; expected {LOCAL}, or for a .mhd one file in its folder"
        )
    return beside


def _inflate(file: BinaryIO, expected: int) -> NDArray[np.uint8]:
    """`expected` bytes of one zlib stream, no more and no less."""
    out = np.empty(expected, np.uint8)
    filled = 0
    stream = zlib.decompressobj(ANY_HEADER)
    while not stream.eof:
        packed = stream.unconsumed_tail or file.read(CHUNK)
        if not packed:
            break
        # One byte too many is asked for, so that a stream that goes on is told from one that ends.
        part = stream.decompress(packed, min(CHUNK, expected - filled + 1))
        if filled + len(part) > expected:
            raise InputError(
                f"it holds more than the {expected} bytes of voxels that its header promises; convert it again"
            )
        out[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    if not stream.eof or filled < expected:
        raise InputError(
            f"it holds {filled} bytes of voxels and its header promises {expected}: it was cut off, copy it again"
        )
    return out


def _lacks(name: str) -> str:
    return f"its header has no field {name}; expected one: convert the image again"


def _flag(fields: Mapping[str, str], name: str, default: bool) -> bool:
    """MetaIO takes any word that begins with T, t or 1 for true."""
    return fields.get(name, str(default))[:1] in ("T", "t", "1")


def _integers(fields: Mapping[str, str], name: str, count: int, default: str = "") -> tuple[int, ...]:
    return _parsed(fields.get(name, default), name, count, int, "whole number(s)")


def _numbers(fields: Mapping[str, str], names: tuple[str, ...], count: int, default: str = "") -> tuple[float, ...]:
    """The first of the fields of these names."""
    name = next((name for name in names if name in fields), names[0])
    return _parsed(fields.get(name, default), name, count, float, "number(s)")


def _agreed(fields: Mapping[str, str], names: tuple[str, ...], count: int, default: str) -> tuple[float, ...]:
    """The numbers of all fields of these names, which must be the same."""
    first, *others = [name for name in names if name in fields] or [names[0]]
    values = _numbers(fields, (first,), count, default)
    for other in others:
        if not np.allclose(_numbers(fields, (other,), count), values, rtol=0, atol=ROUNDED):
            raise InputError(
                f"its header has the {first} {fields[first][:40]!r} and the {other} {fields[other][:40]!r}, which mean "
                "the same; expected equal numbers: convert the image again"
            )
    return values


def _parsed(text: str, name: str, count: int, parse: Callable[[str], T], what: str) -> tuple[T, ...]:
    """So many numbers; Python's own may have `_` among their digits, a file's may not."""
    try:
        values = tuple(parse(word) for word in text.replace("_", "?").split())
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(f"it has the {name} {text[:40]!r}; expected {count} {what}" if text else _lacks(name))
    return values
