"""NRRD (.nrrd): the header's claims; ITK reads the rest."""

from __future__ import annotations

import math
from pathlib import Path

from l2snet.errors import InputError
from l2snet.images.claims import check_size, check_stored

SUFFIX = ".nrrd"
MAGIC = "NRRD000"
MAX_HEADER_BYTES = 1 << 20
# Bytes of a voxel by the name of its type, of which NRRD has many.
BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}
RAW, PACKED = ("raw",), ("gzip", "gz")
ELSEWHERE = ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip")
GRID = ("space", "space directions")
# ITK takes the axes of any other space, such as a scanner's, for these of LPS.
SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")


def check_header(path: Path) -> None:
    """Refuse a header that ITK's reader must not see, or whose voxels the file cannot hold.

    Raises
    ------
    InputError : its subject is the file.
    ValueError, OSError : it is no NRRD, or cannot be opened.
    """
    fields, at = _fields(path)
    for name in ELSEWHERE:
        if name in fields:
            raise InputError(f"it says by {name!r} that its voxels are elsewhere; expected them behind the header")
    try:
        dimension = int(fields["dimension"])
        size = tuple(int(word) for word in fields["sizes"].split())
        kind, encoding = fields["type"].lower(), fields["encoding"].lower()
    except KeyError as error:
        raise InputError(f"its header has no field {error}; expected one: convert the image again") from error
    if dimension != 3 or len(size) != 3:
        raise InputError(
            f"it is a {dimension}D image with sizes {size[:5]}; expected a 3D image with one value a voxel"
        )
    for name in GRID:
        if name not in fields:
            raise InputError(f"its header has no field {name!r}; expected one: convert the image again")
    if fields["space"].lower() not in SPACES:
        raise InputError(f"its space is {fields['space'][:40]!r}; expected {', '.join(SPACES[:3])}: convert it again")
    check_size(size)
    if kind not in BYTES or encoding not in (*RAW, *PACKED):
        raise InputError(
            f"it has voxels of type {kind[:20]!r} in {encoding[:20]!r}; expected numbers in 'raw' or 'gzip'"
        )
    check_stored(path.stat().st_size - at, math.prod(size) * BYTES[kind], encoding in PACKED)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields up to the empty line that ends it, and where the voxels begin."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(80).startswith(MAGIC.encode()):
            raise ValueError(f"it does not begin with {MAGIC}")
        while file.tell() < MAX_HEADER_BYTES:
            line = file.readline(MAX_HEADER_BYTES)
            if not line.strip():
                return fields, file.tell()
            name, separator, value = line.decode("latin-1").partition(":")
            if name.startswith("#") or not separator or value.startswith("="):  # comments and key:=value pairs
                continue
            name = name.strip().lower()
            if name in fields:
                raise InputError(f"its header has the field {name!r} twice; expected it once: convert the image again")
            fields[name] = value.strip()
    raise ValueError("its header does not end")
