"""DICOM files, in bounds: a deflated one may inflate to a thousand times its size, sequences may be without end."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from l2snet.errors import InputError

# A deflated file, its pixels left out, may inflate to so much, and so many times its size: text does to a tenth of it.
MAX_HEADER_BYTES, MAX_HEADER_RATIO = 1 << 20, 64
# Sequences within sequences: an image has a handful, and what copies or writes over a hundred ends Python's stack.
MAX_DEPTH = 32
META_GROUP = 2
PIXELS = 0x7FE00008  # the first tag of any kind of pixels


def read_header(path: Path) -> FileDataset:
    """A file's header, without its pixels.

    Raises
    ------
    EOFError : it is deflated, and its header is cut off or longer than a header may be.
    What pydicom and zlib raise.
    """
    meta = read_file_meta_info(path)
    if not _is_deflated(meta):
        return dcmread(path, stop_before_pixels=True)
    most = _header_bytes(path)
    inflated = BytesIO(_inflated(path, most))
    header = read_dataset(inflated, False, True, stop_when=lambda tag, _vr, _length: tag >= PIXELS)
    if inflated.tell() == most:
        raise EOFError(f"its header has more than {most} bytes")
    return FileDataset(path, header, file_meta=meta, is_implicit_VR=False, is_little_endian=True)


def read_whole(path: Path) -> FileDataset:
    """A file with its pixels.

    Raises
    ------
    InputError : its subject is the file; it is deflated, and inflates to more than its header and pixels may take, or
        its sequences are too deep to be copied into a result.
    What pydicom and zlib raise.
    """
    meta = read_file_meta_info(path)
    if _is_deflated(meta):
        most = _header_bytes(path) + _pixel_bytes(read_header(path))
        if len(_inflated(path, most)) == most:
            raise InputError(
                f"inflates to over {most} bytes, more than its pixels can take; export it again, not deflated"
            )
    whole = dcmread(path)
    if _is_deeper(whole, MAX_DEPTH):
        raise InputError(f"has sequences more than {MAX_DEPTH} deep; expected an image's few: export it again")
    return whole


def _is_deeper(dataset: Dataset, most: int) -> bool:
    """Whether there are more than so many sequences within one another; those with a length are opened for it."""
    level: list[Dataset] = [dataset]
    for _ in range(most + 1):
        level = [item for within in level for item in _items(within)]
    return bool(level)


def _items(dataset: Dataset) -> list[Dataset]:
    """What all sequences of a data set hold, but for damaged ones."""
    found: list[Dataset] = []
    # Only these may be sequences, before they are opened: None is of a file that does not say.
    for tag in [element.tag for element in dataset.values() if element.VR in ("SQ", "UN", None)]:
        with suppress(ValueError, TypeError, struct.error, BytesLengthException), disable_value_validation():
            element = dataset[tag]
            found += element.value if element.VR == "SQ" else ()
    return found


def _is_deflated(meta: FileMetaDataset) -> bool:
    return bool(meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)


def _header_bytes(path: Path) -> int:
    return MAX_HEADER_BYTES + MAX_HEADER_RATIO * path.stat().st_size


def _pixel_bytes(header: Dataset) -> int:
    """What all frames take by their header, in whole bytes a value; 0 where it does not say."""
    rows, columns, bits = (int(header.get(side) or 0) for side in ("Rows", "Columns", "BitsAllocated"))
    samples, frames = (int(header.get(number) or 1) for number in ("SamplesPerPixel", "NumberOfFrames"))
    return rows * columns * samples * frames * ((bits + 7) // 8)


def _inflated(path: Path, most: int) -> bytes:
    """What follows the meta information, `most` bytes at the most."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    with path.open("rb") as file:
        read_preamble(file, force=False)
        # To the group's end: the length that it gives itself may lack or be wrong, which pydicom does not mind.
        read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != META_GROUP)
        raw = stream.decompress(file.read(), most)
    if len(raw) < most and not stream.eof:
        raise EOFError("it was cut off")
    return raw
