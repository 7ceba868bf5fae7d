"""The inputs of `reliability.py`: what is wrong with each, and what must come of it.

All begin as one case: a warm ellipsoid of SUV 1 with a cube of SUV 8 in it. The networks answer with the PET over 10,
so that the mask is the cube wherever the PET lies on the working grid.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_files import write_ct, write_pet
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from l2snet.preprocess import WORKING_SPACING_MM
from l2snet.volume import Geometry, Volume, write_volume

NAME = "11111111-aaaa-4bbb-8ccc-222222222222"
PET, CT = Path("images/pet/33333333-pet.mha"), Path(f"images/ct/{NAME}.mha")
GRID = Geometry((24, 28, 32), WORKING_SPACING_MM, (-30.0, 20.0, -700.0))
SMALL_PET = "is not in mm"  # the case is smaller than a body: every mask comes with this warning
MET = {"f4": "FLOAT", "f8": "DOUBLE", "i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT"}
MET |= {"i4": "INT", "u4": "UINT", "i8": "LONG_LONG", "u8": "ULONG_LONG"}
NO_LENGTH = 0xFFFFFFFF  # of a DICOM sequence that says where it ends
LONG_NAME = "n" * 251  # with .mha the 255 bytes that file systems allow

Make = Callable[[Path], Volume | None]


@dataclass(frozen=True)
class Trial:
    """An input and what must come of it.

    Attributes
    ----------
    make : writes the input into an empty folder; returns the mask due, on the PET's grid, or None.
    sentence : what the refusal must say (a pattern); empty: a mask is due.
    warning : what stderr and manifest must say beside a mask.
    beside : files that are due beside mask and manifest.
    exact : the mask must be the due one; else most of it must lie there (the PET was interpolated).
    arguments : of `l2snet predict`; "INPUT" is the folder that `make` was given.
    """

    name: str
    make: Make
    sentence: str = ""
    warning: str = ""
    exact: bool = True
    mask_name: str = ""
    beside: tuple[str, ...] = ()
    folder: str = "input"
    arguments: tuple[str, ...] = ("INPUT", "OUTPUT")
    without_rights: bool = False
    missing: str = ""


def phantom(grid: Geometry = GRID) -> tuple[Volume, Volume, Volume]:
    """PET, CT and the mask due, on any grid; the lesion is a cube of up to 4 voxels."""
    index = np.stack(np.indices(grid.size), axis=-1)
    centre = (np.array(grid.size) - 1) / 2
    inside = (((index - centre) / np.maximum(0.4 * np.array(grid.size), 1)) ** 2).sum(axis=-1) < 1
    due = np.zeros(grid.size, np.uint8)
    due[tuple(slice(n // 2, n // 2 + 4) for n in grid.size)] = 1
    suv = np.where(due, 8.0, inside).astype(np.float32)
    hu = np.where(inside | (due > 0), 40.0, -1000.0).astype(np.float32)
    return Volume(suv, grid), Volume(hu, grid), Volume(due, grid)


def mha(
    volume: Volume,
    path: Path,
    dtype: str = "<f4",
    compress: bool = False,
    data: bytes | None = None,
    drop: tuple[str, ...] = (),
    extra: str = "",
    **fields: str,
) -> None:
    """A MetaImage written by hand; fields, voxels and order of bytes may be other than they should."""
    grid = volume.geometry
    raw = volume.array.astype(dtype).tobytes() if data is None else data
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(dtype.startswith(">")),
        "CompressedData": str(compress),
        "TransformMatrix": " ".join(f"{c:.10g}" for c in np.array(grid.direction)[:, ::-1].T.ravel()),
        "Offset": " ".join(f"{o:.10g}" for o in grid.origin_mm),
        "ElementSpacing": " ".join(f"{s:.10g}" for s in grid.spacing_mm[::-1]),
        "DimSize": " ".join(map(str, grid.size[::-1])),
        "ElementType": f"MET_{MET[dtype[1:]]}",
        **fields,
    }
    place = header.pop("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if key not in drop) + extra
    if "ElementDataFile" not in drop:
        text += f"ElementDataFile = {place}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() + (zlib.compress(raw, 6) if compress else raw))


def case(folder: Path, grid: Geometry = GRID, pet: Path = PET, ct: Path = CT) -> Volume:
    """The case as it should be; returns the mask due."""
    suv, hu, due = phantom(grid)
    mha(suv, folder / pet)
    mha(hu, folder / ct)
    return due


def with_pet(**how: Any) -> Make:
    """The case with another PET file."""
    return lambda folder: _again(folder, PET, 0, how)


def with_ct(**how: Any) -> Make:
    """The case with another CT file."""
    return lambda folder: _again(folder, CT, 1, how)


def _again(folder: Path, place: Path, which: int, how: dict[str, Any]) -> Volume:
    due = case(folder)
    mha(phantom()[which], folder / place, **how)
    return due


def with_both(**fields: Any) -> Make:
    """The case with the same header fields in both files."""

    def make(folder: Path) -> Volume:
        due = _again(folder, PET, 0, fields)
        mha(phantom()[1], folder / CT, **fields)
        return due

    return make


def plain_axes(folder: Path) -> Volume:
    """The case at the world's origin, with files that leave out where it lies."""
    suv, hu, due = phantom(replace(GRID, origin_mm=(0.0, 0.0, 0.0)))
    for volume, place in ((suv, PET), (hu, CT)):
        mha(volume, folder / place, drop=("TransformMatrix", "Offset"))
    return due


def on_grid(grid: Geometry) -> Make:
    """The case on another grid."""
    return lambda folder: case(folder, grid)


def values(suv: Callable[[np.ndarray], Any] | None = None, hu: Callable[[np.ndarray], Any] | None = None) -> Make:
    """The case with other voxels."""

    def make(folder: Path) -> Volume:
        pet, ct, due = phantom()
        for volume, change, place in ((pet, suv, PET), (ct, hu, CT)):
            array = volume.array if change is None else np.asarray(change(volume.array.copy()), np.float32)
            mha(volume.with_array(array), folder / place)
        return due

    return make


def after(change: Callable[[Path], object]) -> Make:
    """The case, to whose folder something is done."""

    def make(folder: Path) -> Volume:
        due = case(folder)
        change(folder)
        return due

    return make


def bytes_of(place: Path, change: Callable[[bytes], bytes]) -> Make:
    """The case with the bytes of one file changed."""
    return after(lambda folder: (folder / place).write_bytes(change((folder / place).read_bytes())))


def named(pet: str, ct: str, sentence_only: bool = False) -> Make:
    """The case with other file names; or, with a PET that is no image."""

    def make(folder: Path) -> Volume:
        due = case(folder, pet=PET.with_name(pet), ct=CT.with_name(ct))
        if sentence_only:
            (folder / PET.with_name(pet)).write_text("no image")
        return due

    return make


def inputs(text: str | bytes) -> Make:
    """The case beside an inputs.json."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return after(lambda folder: (folder / "inputs.json").write_bytes(raw))


def sockets(*paths: str, name: str = "") -> Make:
    entries = [{"socket": {"relative_path": path}, "image": {"name": name}} for path in paths]
    return inputs(json.dumps(entries))


def link(place: Path, to: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / place
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        path.symlink_to(to)

    return change


def elsewhere(place: Path) -> Callable[[Path], None]:
    """Move a file or folder out of the input, and leave a symbolic link in its place."""

    def change(folder: Path) -> None:
        aside = folder.parent / f"elsewhere {place.name}"
        (folder / place).rename(aside)
        (folder / place).symlink_to(aside)

    return change


def linked_socket(folder: Path) -> None:
    sockets("images/pet", "images/ct")(folder)
    elsewhere(Path("images/pet"))(folder)


def linked_series(folder: Path) -> None:
    """The series lie elsewhere, and there hold links to the folders above and to each other."""
    for n, series in enumerate(("1", "2")):
        elsewhere(Path(series))(folder)
        (folder / series / "up").symlink_to("..")
        (folder / series / "study").symlink_to(folder)
        (folder / series / "other").symlink_to(folder.parent / f"elsewhere {2 - n}")


def shut(place: str) -> Make:
    return after(lambda folder: (folder / place).chmod(0))


def nan_island(array: np.ndarray) -> np.ndarray:
    array[2:5, 2:5, 2:5] = np.nan
    return array


def one_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[0, 0, 0] = value
        return array

    return change


def in_window(folder: Path) -> Volume:
    """SUV 0 to 8 drawn in bytes: the body then has 32, and is all lesion to the networks; whence the warning."""
    case(folder)
    suv = phantom()[0]
    mha(suv.with_array(np.round(suv.array / 8 * 255)), folder / PET, dtype="<u1")
    return suv.with_array((suv.array > 0).astype(np.uint8))


def swapped(shift: float = 0.0) -> Make:
    def make(folder: Path) -> None:
        suv, hu, _ = phantom()
        mha(hu.with_array(hu.array + shift), folder / PET)
        mha(suv, folder / CT)

    return make


def turned(order: tuple[int, int, int], signs: tuple[int, int, int]) -> Geometry:
    """The case's grid with its axes in another order and sense; left-handed where their parity is odd."""
    matrix = np.array(GRID.direction)[:, order] * signs
    return replace(
        GRID,
        spacing_mm=tuple(GRID.spacing_mm[a] for a in order),
        direction=tuple(tuple(float(c) for c in row) for row in matrix),
    )


def tilted(degrees: float) -> Geometry:
    cos, sin = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    return replace(GRID, direction=((0.0, 0.0, 1.0), (-sin, cos, 0.0), (cos, sin, 0.0)))


def moved_ct(grid: Geometry) -> Make:
    """The case with a CT on a grid of its own."""

    def make(folder: Path) -> Volume:
        due = case(folder)
        mha(Volume(phantom(grid)[1].array, grid), folder / CT)
        return due

    return make


def image(made: sitk.Image, place: Path = PET) -> Make:
    """The case with an image of SimpleITK's in the place of one of its files."""
    return after(lambda folder: sitk.WriteImage(made, str(folder / place)))


def renamed(suffix: str) -> Make:
    """The case with a PET that is of another format than its ending says."""

    def change(folder: Path) -> None:
        other = folder / f"other{suffix}"
        if suffix == ".png":
            sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(other))
        else:
            write_volume(phantom()[0], other, compress=False)
        other.replace(folder / PET)

    return after(change)


def study(suffix: str = ".nii.gz", change: Callable[[bytearray], object] | None = None, keep: float = 1.0) -> Make:
    """A study folder in NIfTI; `change` has the PET's bytes before they are compressed."""

    def make(folder: Path) -> Volume:
        suv, hu, due = phantom()
        for volume, name in ((suv, "SUV"), (hu, "CTres")):
            write_volume(volume, folder / f"{name}{suffix}", compress=False)
        path = folder / f"SUV{suffix}"
        raw = bytearray(gzip.decompress(path.read_bytes()))
        if change is not None:
            change(raw)
        packed = gzip.compress(raw)
        path.write_bytes(packed[: int(keep * len(packed))])
        return due

    return make


def nifti(at: int, layout: str, *numbers: float) -> Make:
    """A study whose PET's NIfTI header has other numbers at an offset."""
    return study(change=lambda raw: struct.pack_into(layout, raw, at, *numbers))


def nifti_of(array: np.ndarray, order: str = "<", kind: type = nib.Nifti1Image) -> Make:
    """A study whose PET is any array (x, y, z, ...) in NIfTI."""

    def make(folder: Path) -> Volume:
        due = study()(folder)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ _xyz_affine()
        made = kind(array, affine)
        made.header.set_xyzt_units("mm")
        made = kind(array, affine, made.header.as_byteswapped(order))
        nib.save(made, folder / "SUV.nii.gz")
        return due

    return make


def _xyz_affine() -> np.ndarray:
    affine = GRID.affine.copy()
    affine[:, :3] = affine[:, 2::-1]
    return affine


def suv_xyz(dtype: Any = np.float32) -> np.ndarray:
    return phantom()[0].array.T.astype(dtype)


def files(suffix: str, change: Callable[[Path], object] = lambda folder: None, compress: bool = False) -> Make:
    """PET and CT as two files of one format, for --pet and --ct."""

    def make(folder: Path) -> Volume:
        suv, hu, due = phantom()
        for volume, name in ((suv, "pet"), (hu, "ct")):
            path = folder / f"{name}{suffix}"
            if suffix == ".mhd":
                sitk.WriteImage(volume.to_sitk(), str(path))
            else:
                write_volume(volume, path, compress)
        change(folder)
        return due

    return make


def text_in(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    """Replace text in a file that holds it."""

    def change(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        if old not in whole:
            raise ValueError(f"{name} has no {old!r}")
        (folder / name).write_bytes(whole.replace(old, new, 1))

    return change


def dicom(change: Callable[[Path], object] = lambda folder: None, **changes: Any) -> Make:
    """The case as a DICOM study: PET in SUV, CT on the same grid."""

    def make(folder: Path) -> Volume:
        suv, hu, due = phantom()
        places = tuple([float(v) for v in GRID.world(np.array([z, 0, 0]))] for z in range(GRID.size[0]))
        fields = {"PixelSpacing": list(GRID.spacing_mm[1:]), "ImagePositionPatient": places}
        scale = {"Units": "GML", "RescaleSlope": 0.001}
        write_pet(folder / "1", (suv.array * 1000).astype(np.int16), **{**fields, **scale, **changes})
        write_ct(folder / "2", (hu.array + 1024).astype(np.int16), **fields)
        change(folder)
        return due

    return make


def cut(folder: Path) -> None:
    path = folder / "1" / "1-003.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 100])


def shorter(change: Callable[[Path], object]) -> Make:
    """A study whose PET loses its last slice by a change; the mask due is that of the rest."""

    def make(folder: Path) -> Volume:
        due = dicom(change)(folder)
        return Volume(due.array[:-1], replace(GRID, size=(23, 28, 32)))

    return make


def last_slice(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / "1/1-024.dcm"
        path.write_bytes(change(path.read_bytes()))

    return do


def deflated(before: int = 0, behind: int = 0, keep: float = 1.0) -> Callable[[Path], None]:
    """Deflate the PET's files, the last with so many MB of zeros in elements of its own, or cut off."""

    def bomb(whole: bytes) -> bytes:
        at = 144 + struct.unpack_from("<I", whole, 140)[0]
        pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)

        def zeros(group: int, megabytes: int) -> bytes:
            element = struct.pack("<HH2sHI", group, group, b"OB", 0, megabytes << 20) if megabytes else b""
            return pack.compress(element) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(megabytes))

        body = zlib.decompress(whole[at:], -zlib.MAX_WBITS)
        made = whole[:at] + zeros(0x0003, before) + pack.compress(body) + zeros(0xFFFC, behind) + pack.flush()
        return made[: int(keep * len(made))]

    def change(folder: Path) -> None:
        for path in (folder / "1").glob("*.dcm"):
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            dataset.save_as(path, enforce_file_format=True)
        last_slice(bomb)(folder)

    return change


def said_to_be_jpeg(folder: Path) -> None:
    for path in (folder / "1").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        dataset.save_as(path, enforce_file_format=True)


def deep_beside(folder: Path) -> None:
    """A file whose sequences, 3000 deep and without lengths, are opened as it is read."""
    opened = struct.pack("<HH2sHI2HI", 0x0008, 0x1140, b"SQ", 0, NO_LENGTH, 0xFFFE, 0xE000, NO_LENGTH)
    closed = struct.pack("<2HI2HI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    whole = (folder / "1/1-001.dcm").read_bytes()
    after_meta = 144 + struct.unpack_from("<I", whole, 140)[0]
    (folder / "1/zz.dcm").write_bytes(whole[:after_meta] + opened * 3000 + closed * 3000)


def deep_within(depth: int) -> Callable[[Path], None]:
    """Sequences in a slice of the PET, so deep and with lengths: they are opened when somebody asks for them."""

    def change(folder: Path) -> None:
        nested = b""
        for _ in range(depth):
            item = struct.pack("<2HI", 0xFFFE, 0xE000, len(nested)) + nested
            nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
        path = folder / "1/1-003.dcm"
        whole = path.read_bytes()
        after_meta = 144 + struct.unpack_from("<I", whole, 140)[0]
        path.write_bytes(whole[:after_meta] + nested + whole[after_meta:])

    return change


def in_slices(*zero: int) -> tuple[float, ...]:
    """A RescaleSlope for every slice of a DICOM PET: 0 in these."""
    return tuple(0.0 if n in zero else 0.001 for n in range(GRID.size[0]))


def by_files(suffix: str) -> tuple[str, ...]:
    return ("--pet", f"INPUT/pet{suffix}", "--ct", f"INPUT/ct{suffix}", "OUTPUT")


TABLES = ("lesions.csv", "measurements.json", "patient.csv")
HUGE = "2000 2000 6250"  # 100 GB of float32
NO_PIPES = "" if hasattr(os, "mkfifo") else "pipes are not known here"
NO_RIGHTS = "" if hasattr(os, "geteuid") else "rights are not those of POSIX here"
NO_BYTES = "" if sys.platform == "linux" else "file names are Unicode here"
COARSE = Geometry((12, 14, 16), tuple(2 * s for s in GRID.spacing_mm), GRID.origin_mm)
FAR = replace(GRID, origin_mm=(500.0, 20.0, -700.0))
RESAMPLE = ("INPUT", "OUTPUT", "--resample-ct")
DAMAGED = (
    Trial("PET empty", bytes_of(PET, lambda _: b""), r"pet\.mha cannot be read"),
    Trial("PET a text", bytes_of(PET, lambda _: b"no image\n"), r"pet\.mha cannot be read"),
    Trial("PET a PNG renamed", renamed(".png"), r"pet\.mha cannot be read"),
    Trial("PET a NIfTI renamed", renamed(".nii.gz"), r"pet\.mha cannot be read"),
    Trial("PET gzipped", bytes_of(PET, gzip.compress), r"pet\.mha cannot be read"),
    Trial("PET cut in its header", bytes_of(PET, lambda raw: raw[:100]), r"pet\.mha cannot be read"),
    Trial("PET cut in the middle", bytes_of(PET, lambda raw: raw[: len(raw) // 2]), "cut off"),
    Trial("PET a byte short", bytes_of(PET, lambda raw: raw[:-1]), "cut off"),
    Trial("PET a byte long", bytes_of(PET, lambda raw: raw + b"\0")),
    Trial("CT cut in the middle", bytes_of(CT, lambda raw: raw[: len(raw) // 2]), "CT: .*cut off"),
    Trial("PET compressed", with_pet(compress=True), warning=SMALL_PET),
    Trial("PET compressed and cut", with_pet(data=b"\x78\x9c" + bytes(40), CompressedData="True"), "PET"),
    Trial("PET compressed, fewer slices", with_pet(compress=True, DimSize="32 28 48"), "cut off"),
    Trial("PET compressed, more slices", with_pet(compress=True, DimSize="32 28 12"), "holds more than"),
    Trial("PET said to be compressed", with_pet(CompressedData="True"), r"pet\.mha cannot be read"),
    Trial("PET compressed, size of it wrong", with_pet(compress=True, CompressedDataSize="99999999999")),
    Trial("PET of 100 GB in 86 kB", with_pet(DimSize=HUGE), "expected at most"),
    Trial("PET of 100 GB in 1 kB, compressed", with_pet(compress=True, DimSize=HUGE), "expected at most"),
    Trial("PET of 4 GB in 1 kB, compressed", with_pet(compress=True, DimSize="1000 1000 1000"), "cut off"),
    Trial("PET of 86 kB that unpacks to 64 MB", with_pet(compress=True, data=bytes(1 << 26)), "holds more than"),
    Trial("PET big-endian", with_pet(dtype=">f4")),
    Trial("PET big-endian, says little", with_pet(dtype=">f4", BinaryDataByteOrderMSB="False"), "highest value is"),
    Trial("CT big-endian, says little", with_ct(dtype=">i2", BinaryDataByteOrderMSB="False"), "the CT's"),
)
HEADERS = (
    *(
        Trial(f"PET without {field}", with_pet(drop=(field,)), sentence)
        for field, sentence in (
            ("DimSize", "no field DimSize"),
            ("ElementSpacing", "no field ElementSpacing"),
            ("ElementType", "ElementType ''"),
            ("NDims", "expected a 3D image"),
            ("ElementDataFile", "ends without ElementDataFile"),
        )
    ),
    Trial("no TransformMatrix, no Offset", plain_axes),
    Trial("DimSize 3_2 28 24", with_pet(DimSize="3_2 28 24"), "whole number"),
    Trial("DimSize twice", with_pet(extra="DimSize = 4 4 4\n"), "DimSize twice"),
    Trial("ElementSpacing twice", with_pet(extra="ElementSpacing = 9 9 9\n"), "ElementSpacing twice"),
    Trial("Offset and Position disagree", with_pet(Position="500 20 -700"), "Offset .* and the Position"),
    Trial("Offset and Origin agree", with_pet(Origin="-30.0 20.0 -700.0001")),
    Trial("TransformMatrix and Rotation disagree", with_pet(Rotation="0 1 0 1 0 0 0 0 1"), "and the Rotation"),
    Trial("DimSize of 20 digits", with_pet(DimSize="99999999999999999999 8 8"), "expected at most"),
    Trial("DimSize of 5000 digits", with_pet(DimSize="9" * 5000 + " 8 8"), "expected 3 whole number"),
    Trial("DimSize negative", with_pet(DimSize="-32 -28 24"), "no voxels"),
    Trial("DimSize zero", with_pet(DimSize="32 28 0"), "no voxels"),
    Trial("DimSize of two numbers", with_pet(DimSize="32 28"), "expected 3 whole number"),
    Trial("NDims -1", with_pet(NDims="-1"), "is a -1D image"),
    Trial("NDims 99", with_pet(NDims="99"), "is a 99D image"),
    Trial("0 channels", with_pet(ElementNumberOfChannels="0"), "with 0 value"),
    Trial("2e9 channels", with_pet(ElementNumberOfChannels="2000000000"), "with 2000000000 value"),
    Trial("ElementType MET_STRING", with_pet(ElementType="MET_STRING"), "ElementType 'MET_STRING'"),
    Trial("values to be scaled", with_pet(ElementToIntensityFunctionSlope="2"), "scaled by 2"),
    Trial("voxels as text", with_pet(BinaryData="False"), "as text"),
    Trial("HeaderSize of 10", with_pet(HeaderSize="10"), "second header"),
    Trial("a comment of 200 kB", with_pet(extra="Comment = " + "x" * 200_000 + "\n")),
    Trial("a header of 2 MB", with_pet(extra="Comment = " + "x" * 2_000_000 + "\n"), r"pet\.mha cannot be read"),
    Trial("ElementDataFile Local", with_pet(ElementDataFile="Local")),
    Trial("fields with colons", after(text_in(str(PET), b"NDims = 3", b"NDims : 3"))),
    Trial("a line of text in the header", with_pet(extra="written by hand\n")),
    Trial("HeaderSize of -1", with_pet(HeaderSize="-1")),
    Trial("line ends of Windows", after(text_in(str(PET), b"\nNDims = 3\n", b"\r\nNDims = 3\r\n"))),
    Trial("decimal commas", with_pet(ElementSpacing="2,036 2,036 3,0"), "expected 3 number"),
    Trial("ElementDataFile /etc/passwd", with_pet(ElementDataFile="/etc/passwd"), "voxels are in '/etc/passwd'"),
    Trial("ElementDataFile in a folder above", with_pet(ElementDataFile="../ct/x.mha"), r"voxels are in '\.\./ct"),
    Trial("ElementDataFile LIST", with_pet(ElementDataFile="LIST"), "voxels are in 'LIST'"),
    Trial("ElementDataFile of printf's %n", with_pet(ElementDataFile="%s%s%n 1 8 1"), "voxels are in '%s%s%n"),
)
GRIDS = (
    *(
        Trial(f"spacing {text}", with_pet(ElementSpacing=text), "voxel spacing")
        for text in ("0 2.036 3", "-2.036 2.036 3", "nan 2.036 3", "inf 2.036 3", "1e30 2.036 3", "2036 2036 3000")
    ),
    Trial("spacing in metres", with_both(ElementSpacing="0.002036 0.002036 0.003"), "is its voxel spacing in mm"),
    Trial("spacing of 1 m", with_both(ElementSpacing="1000 1000 1000"), "is its voxel spacing in mm"),
    Trial("PET sheared", with_pet(TransformMatrix="1 0.5 0 0 1 0 0 0 1"), "not orthonormal"),
    Trial("PET's axes too long", with_pet(TransformMatrix="2 0 0 0 2 0 0 0 2"), "not orthonormal"),
    Trial("PET's axes zero", with_pet(TransformMatrix="0 0 0 0 0 0 0 0 0"), "not orthonormal"),
    Trial("PET's axes NaN", with_pet(TransformMatrix="nan 0 0 0 1 0 0 0 1"), "not orthonormal"),
    Trial("PET's axes of 1e308", with_pet(TransformMatrix="1e308 0 0 0 1 0 0 0 1"), "not orthonormal"),
    Trial("left-handed", on_grid(turned((0, 1, 2), (1, 1, -1)))),
    Trial("all axes the other way", on_grid(turned((0, 1, 2), (-1, -1, -1)))),
    Trial("sagittal slices", on_grid(turned((2, 0, 1), (1, -1, 1)))),
    Trial("20 degrees oblique", on_grid(tilted(20.0)), warning="resampled|not in mm", exact=False),
    Trial("voxels of 4 mm", on_grid(replace(GRID, spacing_mm=(4.0, 4.0, 4.0))), exact=False),
    Trial("origin NaN", with_both(Offset="nan 0 0"), "origin"),
    Trial("origin 1e300", with_both(Offset="1e300 0 0"), "origin"),
    Trial("CT a slice off", moved_ct(replace(GRID, origin_mm=(-30.0, 20.0, -697.0))), "not on the PET's grid"),
    Trial("CT coarser", moved_ct(COARSE), "--resample-ct"),
    Trial("CT coarser, --resample-ct", moved_ct(COARSE), arguments=RESAMPLE),
    Trial("CT elsewhere, --resample-ct", moved_ct(FAR), "covers 0% of the PET", arguments=RESAMPLE),
    Trial("one slice", on_grid(replace(GRID, size=(1, 28, 32))), "one slice thick"),
    Trial("two slices", on_grid(replace(GRID, size=(2, 28, 32)))),
    Trial("one voxel", on_grid(replace(GRID, size=(1, 1, 1))), "one slice thick"),
    Trial("1500 slices", on_grid(replace(GRID, size=(1500, 8, 8)))),
    Trial("1000 voxels wide", on_grid(replace(GRID, size=(8, 8, 1000)))),
)
TYPES = (
    *(Trial(f"PET of {dtype[1:]}", with_pet(dtype=dtype)) for dtype in ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4")),
    *(Trial(f"PET of {dtype[1:]}", with_pet(dtype=dtype)) for dtype in ("<i8", "<u8", "<f8")),
    Trial("CT of i2", with_ct(dtype="<i2")),
    Trial("PET 2D", image(sitk.Image([8, 8], sitk.sitkFloat32)), "is a 2D image"),
    Trial("PET 4D", image(sitk.Image([4, 4, 4, 2], sitk.sitkFloat32)), "is a 4D image"),
    Trial("PET of vectors", image(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3)), "with 3 value"),
    Trial("PET in colour", image(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3)), "with 3 value"),
)
VALUES = (
    Trial("PET with an island of NaN", values(nan_island), "holds 27 voxels that are NaN"),
    Trial("CT with an island of NaN", values(hu=nan_island), "holds 27 voxels that are NaN"),
    Trial("PET with infinity", values(one_voxel(np.inf)), "holds 1 voxels that are NaN"),
    Trial("PET beyond float32", with_pet(dtype="<f8", data=np.full(21504, 1e300).tobytes()), "NaN or infinite"),
    Trial("PET zero", values(np.zeros_like), "no positive voxel"),
    Trial("PET constant", values(lambda suv: suv * 0 + 5), "every voxel of the PET is 5"),
    Trial("PET negative", values(lambda suv: -suv), "no positive voxel"),
    Trial("PET in Bq/ml", values(lambda suv: suv * 5000), "looks like Bq/ml"),
    Trial("PET in kBq/ml of a child", values(lambda suv: suv * 150), "looks like Bq/ml"),
    Trial("PET scaled to 0..0.1", values(lambda suv: suv / 80), "highest value is 0.1"),
    Trial("PET in a window of 0..255, u1", in_window, warning="give the PET in SUV"),
    Trial("PET of one voxel alone", values(lambda suv: one_voxel(5.0)(suv * 0)), "no body was found"),
    Trial("CT constant", values(hu=lambda hu: hu * 0), "too little for HU"),
    Trial("CT of 0..1", values(hu=lambda hu: hu > 0), "too little for HU"),
    Trial("CT in a window of 0..255", values(hu=lambda hu: np.clip(hu, 0, 255) * 6), "lowest value is 0"),
    Trial("CT + 1024", values(hu=lambda hu: hu + 1024), warning="1024 was taken off the CT"),
    Trial("CT + 1024, padded", values(hu=lambda hu: np.where(hu < 0, -2000, hu + 1024)), warning="1024 was taken off"),
    Trial("PET and CT swapped", swapped(), "is this the CT"),
    Trial("PET and CT + 1024 swapped", swapped(1024.0), "looks like Bq/ml"),
)
PLACES = (
    Trial("no input folder", lambda folder: folder.rmdir(), "no input folder"),
    Trial(
        "an empty input folder",
        lambda _: None,
        "holds no case; expected .mha files in images/pet .*; or SUV.nii.gz .*; or a study in DICOM",
    ),
    Trial("no CT", after(lambda folder: (folder / CT).unlink()), "0 CT images were found.*--pet-only"),
    Trial("two PETs", after(lambda folder: shutil.copy(folder / PET, folder / "images/pet/b.mha")), "2 PET images"),
    Trial(
        "PET a folder",
        after(lambda folder: ((folder / PET).unlink(), (folder / PET).mkdir())),
        "there is no file",
    ),
    Trial(
        "PET a pipe",
        after(lambda folder: ((folder / PET).unlink(), os.mkfifo(folder / PET))),
        "there is no file",
        missing=NO_PIPES,
    ),
    Trial("PET a symbolic link", after(elsewhere(PET))),
    Trial("PET's folder a symbolic link", after(elsewhere(Path("images/pet")))),
    Trial("PET a link to nothing", after(link(PET, "nowhere.mha")), "there is no file"),
    Trial("PET a link to itself", after(link(PET, PET.name)), "there is no file"),
    Trial("PET a link to /dev/zero", after(link(PET, "/dev/zero")), "there is no file"),
    Trial("names in Unicode", named("Žižka ☢.mha", "病人 Ünï.mha"), mask_name="病人 Ünï.mha", folder="in 病人 put"),
    Trial("names with spaces and quotes", named("a 'b'.mha", ' "c" $d;e .mha'), mask_name=' "c" $d;e .mha'),
    Trial("a line break in the CT's name", named("pet.mha", "a\nb.mha"), mask_name="a\nb.mha"),
    Trial(
        "a line break in a bad PET's name", named("a\nb.mha", "c.mha", sentence_only=True), r"PET: a\\nb\.mha cannot"
    ),
    Trial("an escape sequence in a bad PET's name", named("a\x1b[2J.mha", "c.mha", sentence_only=True), r"a\\x1b\[2J"),
    Trial("a name of 255 bytes", named("pet.mha", f"{LONG_NAME}.mha"), mask_name=f"{LONG_NAME}.mha"),
    Trial("a name that is no text", named("pet.mha", "a\udcff.mha"), "not UTF-8; rename", missing=NO_BYTES),
    Trial("PET without rights", shut(str(PET)), "Permission denied", without_rights=True, missing=NO_RIGHTS),
    Trial("a folder without rights", shut("images/pet"), "Permission denied", without_rights=True, missing=NO_RIGHTS),
    Trial("an input without rights", shut("."), "Permission denied", without_rights=True, missing=NO_RIGHTS),
)
SOCKETS = (
    Trial("inputs.json that names both", sockets("images/pet", "images/ct")),
    Trial("inputs.json, PET's folder a symbolic link", after(linked_socket)),
    Trial("inputs.json with images/ct/../pet", sockets("images/ct/../pet")),
    Trial("inputs.json of other things", inputs('[{"socket": {"relative_path": "x.json"}}, {}]')),
    Trial("inputs.json empty", inputs(""), "inputs.json cannot be read"),
    Trial("inputs.json cut off", inputs('[{"socket": {"relative'), "inputs.json cannot be read"),
    Trial("inputs.json no text", inputs(b"\xff\xfe\0["), "inputs.json cannot be read"),
    Trial("inputs.json of 100 000 brackets", inputs("[" * 100_000), "inputs.json cannot be read"),
    Trial("inputs.json with a number of 5000 digits", inputs("[" + "9" * 5000 + "]"), "inputs.json cannot be read"),
    Trial("inputs.json that leaves the folder", sockets("../../etc/pet"), "outside the input folder"),
    Trial("inputs.json with an absolute path", sockets("/etc/pet"), "outside the input folder"),
    Trial("inputs.json with NUL in a path", sockets("images\0/pet"), "cannot be read|0 PET images"),
    Trial("inputs.json with half a character", sockets("\ud800/pet"), "inputs.json cannot be read|0 PET images"),
    Trial("inputs.json with a path of 5000", sockets("x" * 5000 + "/pet"), "cannot be read|0 PET images"),
    Trial("inputs.json with a name of 5000", sockets("images/pet", name="x" * 5000), "inputs.json cannot be read"),
    Trial("inputs.json with two PETs", sockets("images/pet", "other/pet"), "more than one PET"),
    Trial("inputs.json a link to itself", after(lambda f: (f / "inputs.json").symlink_to("inputs.json"))),
    Trial(
        "inputs.json without rights",
        after(lambda f: ((f / "inputs.json").write_text("[]"), (f / "inputs.json").chmod(0))),
        "inputs.json cannot be read",
        without_rights=True,
        missing=NO_RIGHTS,
    ),
)
NIFTI = (
    Trial("a study in NIfTI", study(), mask_name="input.mha"),
    Trial("NIfTI of 100 GB", nifti(40, "<8h", 3, 4000, 4000, 1600, 1, 1, 1, 1), "expected at most"),
    Trial("NIfTI of 4 GB", nifti(40, "<8h", 3, 1000, 1000, 1000, 1, 1, 1, 1), "cut off"),
    Trial("NIfTI with more slices than voxels", nifti(40, "<8h", 3, 32, 28, 48, 1, 1, 1, 1), "SUV.nii.gz"),
    Trial("NIfTI of no voxels", nifti(40, "<8h", 3, 32, 28, 0, 1, 1, 1, 1), "SUV.nii.gz"),
    Trial("NIfTI of -1 dimensions", nifti(40, "<8h", -1, 32, 28, 24, 1, 1, 1, 1), "SUV.nii.gz"),
    Trial("NIfTI with voxels at 1e30", nifti(108, "<f", 1e30), "SUV.nii.gz cannot be read"),
    Trial("NIfTI with voxels at -400", nifti(108, "<f", -400), "SUV.nii.gz"),
    Trial("NIfTI of an unknown type", nifti(70, "<h", 77), "SUV.nii.gz cannot be read"),
    Trial("NIfTI with infinite scale", nifti(112, "<2f", np.inf, 0), "SUV.nii.gz"),
    Trial("NIfTI with spacing 0", nifti(80, "<f", 0), "voxel spacing"),
    Trial("NIfTI with an affine of zeros", nifti(280, "<12f", *[0] * 12), "SUV.nii.gz"),
    Trial("NIfTI that does not say where it lies", nifti(252, "<2h", 0, 0), "not on the PET's grid"),
    Trial("NIfTI sheared", nifti(280, "<12f", -2, 1, 0, 30, 0, -2, 0, -20, 0, 0, 3, -700), "SUV.nii.gz"),
    Trial("NIfTI cut off", study(keep=0.5), "cut off"),
    Trial(
        "NIfTI a text", after(lambda f: (shutil.rmtree(f / "images"), (f / "SUV.nii.gz").write_text("x"))), "PET: SUV"
    ),
    Trial("NIfTI big-endian", nifti_of(suv_xyz(">f4"), ">")),
    Trial("NIfTI-2", nifti_of(suv_xyz(), kind=nib.Nifti2Image)),
    Trial("NIfTI 4D of one frame", nifti_of(suv_xyz()[..., None])),
    Trial("NIfTI 4D", nifti_of(np.stack([suv_xyz()] * 2, axis=-1)), "is a 4D image"),
    Trial("NIfTI of complex numbers", nifti_of(suv_xyz(np.complex64)), "with 2 value"),
)
FILES = (
    Trial("NRRD", files(".nrrd"), mask_name="ct.mha", arguments=by_files(".nrrd")),
    Trial("NRRD compressed", files(".nrrd", compress=True), arguments=by_files(".nrrd")),
    Trial(
        "NRRD of 100 GB",
        files(".nrrd", text_in("pet.nrrd", b"sizes: 32 28 24", b"sizes: 2000 2000 6250")),
        "expected at most",
        arguments=by_files(".nrrd"),
    ),
    Trial(
        "NRRD compressed, with more slices",
        files(".nrrd", text_in("pet.nrrd", b"sizes: 32 28 24", b"sizes: 32 28 48"), compress=True),
        "pet.nrrd",
        arguments=by_files(".nrrd"),
    ),
    Trial(
        "NRRD with its voxels in /etc/passwd",
        files(".nrrd", text_in("pet.nrrd", b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd")),
        "voxels are elsewhere",
        arguments=by_files(".nrrd"),
    ),
    Trial("MetaImage in two files", files(".mhd"), arguments=by_files(".mhd")),
    Trial(
        "MetaImage with its voxels in ./",
        files(".mhd", text_in("pet.mhd", b"pet.raw", b"./pet.raw")),
        arguments=by_files(".mhd"),
    ),
    Trial(
        "MetaImage with its voxels in another folder",
        files(".mhd", text_in("pet.mhd", b"pet.raw", b"../input/pet.raw")),
        "voxels are in",
        arguments=by_files(".mhd"),
    ),
    Trial(
        "a file of no known ending",
        files(".nrrd", lambda folder: (folder / "pet.nrrd").rename(folder / "pet.jpg")),
        "ending is none of",
        arguments=("--pet", "INPUT/pet.jpg", "--pet-only", "OUTPUT"),
    ),
)
DICOM = (
    Trial("DICOM", dicom(), mask_name="input.mha", beside=TABLES),
    Trial("DICOM beside a pipe", dicom(lambda f: os.mkfifo(f / "1" / "0")), beside=TABLES, missing=NO_PIPES),
    Trial("DICOM beside a link to itself", dicom(lambda f: (f / "a").symlink_to("a")), beside=TABLES),
    Trial("DICOM whose series are symbolic links", dicom(linked_series), beside=TABLES),
    Trial("DICOM with a link to the folder above", dicom(lambda f: (f / "1" / "up").symlink_to("..")), beside=TABLES),
    Trial("DICOM with a slice missing", dicom(lambda f: (f / "1" / "1-012.dcm").unlink()), "is one missing"),
    Trial("DICOM with a slice cut off", dicom(cut), "1-003.dcm"),
    Trial("DICOM of 65535 x 65535", dicom(Rows=65535, Columns=65535), "expected at most"),
    Trial("DICOM of more rows than pixels", dicom(Rows=56), "cannot be read"),
    *(
        Trial(f"DICOM whose last slice {what}", shorter(change), warning="passed over 1 file", beside=TABLES)
        for what, change in (
            ("is an empty file", last_slice(lambda raw: b"")),
            ("is cut in its header", last_slice(lambda raw: raw[:400])),
            ("is deflated, and cut off", deflated(keep=0.9)),
            ("inflates to 400 MB before its pixels", deflated(before=400)),
        )
    ),
    Trial("DICOM that inflates to 400 MB", dicom(deflated(behind=400)), r"1-024\.dcm inflates to over"),
    Trial("DICOM deflated", dicom(deflated()), beside=TABLES),
    Trial("DICOM with slope NaN", dicom(RescaleSlope="nan"), "RescaleSlope is nan"),
    Trial("DICOM with slope 0 in the lesion's slices", dicom(RescaleSlope=in_slices(12, 13)), "of 0 in 2 of 24 slices"),
    Trial("DICOM with slope 0 in an empty slice", dicom(RescaleSlope=in_slices(0)), beside=TABLES),
    Trial("DICOM said to be JPEG 2000", dicom(said_to_be_jpeg), r"1-001\.dcm \(JPEG 2000 .*\) cannot be read: [^<>]*$"),
    Trial("DICOM beside sequences 3000 deep", dicom(deep_beside), warning="passed over 1 file", beside=TABLES),
    Trial(
        "DICOM of sequences 3000 deep, with lengths",
        dicom(deep_within(3000)),
        r"PET 1-003\.dcm has sequences more than 32 deep",
        arguments=("INPUT", "OUTPUT", "--format", "seg"),
    ),
    Trial("DICOM of sequences 32 deep", dicom(deep_within(32)), beside=TABLES),
    Trial("DICOM without attenuation correction", dicom(CorrectedImage=["DECY"]), "attenuation corrected"),
    Trial("DICOM in Bq/ml, no weight", dicom(Units="BQML", PatientWeight=""), "PatientWeight"),
    Trial("DICOM that ends after its mark", lambda f: (f / "a").write_bytes(bytes(128) + b"DICM"), "no DICOM file"),
)
INPUTS = (*DAMAGED, *HEADERS, *GRIDS, *TYPES, *VALUES, *PLACES, *SOCKETS, *NIFTI, *FILES, *DICOM)
