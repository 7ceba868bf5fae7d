"""Weights folders: self-describing, checked by hash, looked up in one fixed order.

A folder holds `config.json` (what the network expects), `network.onnx` (graph and float16 weights), optional
`metrics.json`, and `SHA256SUMS` over the first two, in the format of `sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from l2snet.errors import WeightsError
from l2snet.preprocess import WORKING_SPACING_MM, Intensity, intensity

logger = logging.getLogger(__name__)

CONFIG, NETWORK, SUMS = "config.json", "network.onnx", "SHA256SUMS"
# Of a network that learnt organs beside lesions: the head for them, which a training that starts from it goes on with.
ORGAN_HEAD = "organs.safetensors"
CHECKED = (CONFIG, NETWORK)
FORMAT = 1
# Where grand-challenge unpacks the tarball of a separately uploaded model.
CHALLENGE_MODEL = Path("/opt/ml/model")
LOCALIZER, SEGMENTER, STEP_BY_STEP = "localizer", "segmenter", "step_by_step"
# What each network's output is compared with, and where it starts (the papers).
THRESHOLDS: Mapping[str, Mapping[str, float]] = {
    LOCALIZER: {"cue": 0.5},
    SEGMENTER: {"on_cue": 0.1, "off_cue": 0.5},
    STEP_BY_STEP: {"lesion": 0.5},
}


@dataclass(frozen=True)
class NetworkConfig:
    """What a network expects and how its output is read.

    Attributes
    ----------
    network : "localizer", "segmenter" or "step_by_step".
    architecture : constructor arguments of the PyTorch class in `l2snet.networks`.
    spacing_mm : (z, y, x) of the working grid.
    window : (z, y, x) of a 3D network's sliding window; (z, x) of the localizer's, or None, and it takes whole slices.
    stride : (z, y, x) voxels of which a 3D network sees the mean; its window is in these. The localizer's is in its
        architecture.
    multiple : sizes of the input's spatial axes must be multiples of this.
    slices : neighbouring coronal slices stacked as channels (odd, 1 to 7); localizer only.
    slice_stride : the middle one of every so many coronal slices is run (odd, 1 to 7), and the cue is interpolated
        between them; localizer only.
    mirror_axes : of (z, y, x), along which a 3D network's windows were flipped in training, and may be in inference.
    pet, ct : intensity windows in SUV and HU; `ct` None when the network sees PET alone.
    thresholds : named as in `THRESHOLDS`.
    trained : how the weights came about: recipe, cases, what they started from; see `learnt_cases` and `seen_cases`.
    """

    network: str
    architecture: Mapping[str, Any]
    pet: Intensity
    ct: Intensity | None = None
    spacing_mm: tuple[float, float, float] = WORKING_SPACING_MM
    window: tuple[int, ...] | None = None
    stride: tuple[int, int, int] = (1, 1, 1)
    multiple: int = 32
    slices: int = 1
    slice_stride: int = 1
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network not in THRESHOLDS:
            raise ValueError(f"network is {self.network!r}; expected one of {', '.join(THRESHOLDS)}")
        check_slices(self.slices, self.slice_stride)
        if self.window is None and self.network != LOCALIZER:
            raise ValueError(f"window is None; a {self.network} needs a window")
        if self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}; expected at least 1")
        axes = 2 if self.network == LOCALIZER else 3
        if self.window is not None and len(self.window) != axes:
            raise ValueError(f"window {self.window} of a {self.network} does not have {axes} axes")
        if self.window is not None and any(n % self.multiple for n in self.window):
            raise ValueError(f"window {self.window} is not a multiple of {self.multiple}")
        if not self._stride_fits:
            raise ValueError(f"stride is {self.stride}; expected three whole numbers of at least 1, of a localizer 1")
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise ValueError(f"mirror_axes are {self.mirror_axes}; expected some of 0, 1 and 2")
        wanted = set(THRESHOLDS[self.network])
        if set(self.thresholds) != wanted or not all(0 <= t <= 1 for t in self.thresholds.values()):
            raise ValueError(f"thresholds are {dict(self.thresholds)}; expected {sorted(wanted)}, each in 0..1")

    @property
    def _stride_fits(self) -> bool:
        whole = len(self.stride) == 3 and all(isinstance(step, int) and step >= 1 for step in self.stride)
        return whole and (self.network != LOCALIZER or max(self.stride) == 1)

    @property
    def learnt_cases(self) -> frozenset[str]:
        """Names of the cases that the network's parameters come from: its training's, its start's, its localizers'.

        Names of their patients are among them, where they differ; older configs have none.
        """
        records = [self.trained, self.trained.get("start", {}), *self.trained.get("cues", {}).get("localizers", [])]
        return frozenset(name for record in records for name in record.get("cases", []))

    @property
    def seen_cases(self) -> frozenset[str]:
        """`learnt_cases`, and those that its thresholds were calibrated on; who starts from it takes no thresholds."""
        return self.learnt_cases.union(self.trained.get("calibrated_on", []))

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> NetworkConfig:
        """Read `config.json`.

        Raises
        ------
        ValueError : another format, or a field that is missing, unknown or out of range.
        """
        values = json.loads(text)
        version = values.pop("format", None)
        if version != FORMAT:
            raise ValueError(f"format {version!r}; this program reads format {FORMAT}")
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        for name in ("pet", "ct"):
            if values.get(name) is not None:
                values[name] = intensity(values[name])
        for name in ("spacing_mm", "window", "stride", "mirror_axes"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)


def check_slices(slices: int, slice_stride: int) -> None:
    """Refuse numbers of coronal slices, as neighbours and as a stride, that have no middle one.

    Raises
    ------
    ValueError : says which, and what is expected.
    """
    for name, value in (("slices", slices), ("slice_stride", slice_stride)):
        if value not in (1, 3, 5, 7) or not isinstance(value, int):
            raise ValueError(f"{name} is {value}; expected 1, 3, 5 or 7")


def find_weights(network: str, chosen: Path | None = None) -> Path:
    """The weights folder of a network: `chosen`/<network>, /opt/ml/model/<network>, or the program's own copy.

    Raises
    ------
    WeightsError : none of them exists.
    """
    here = Path(__file__).resolve().parent
    uploaded = CHALLENGE_MODEL.is_dir() and any(CHALLENGE_MODEL.iterdir())
    if chosen is not None:
        roots = [chosen]
    elif uploaded:  # never mixed with, or silently replaced by, the weights of the image
        roots = [CHALLENGE_MODEL]
    else:
        roots = [here / "weights", here.parent / "weights"]
    for root in roots:
        if (root / network).is_dir():
            logger.info("%s: %s", network, root / network)
            return root / network
    looked = ", ".join(str(root / network) for root in roots)
    raise WeightsError(
        f"no weights of the {network} were found (looked for {looked}); give their folder with --weights"
    )


def read_config(folder: Path) -> NetworkConfig:
    """Check a weights folder against its SHA256SUMS and read its config.

    Raises
    ------
    WeightsError : a file is missing or altered, or the config cannot be read.
    """
    sums = read_sums(folder)
    for name in (*CHECKED, ORGAN_HEAD):
        if name not in sums:  # a network that learnt no organs
            continue
        found = sha256(folder / name)
        if found != sums[name]:
            raise WeightsError(
                f"{folder / name} was altered: its sha256 is {found[:12]}…, {SUMS} says {sums[name][:12]}…; "
                "copy the weights again"
            )
    try:
        return NetworkConfig.from_json((folder / CONFIG).read_text("utf-8"))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder / CONFIG} cannot be used: {error}") from error


def read_sums(folder: Path) -> dict[str, str]:
    """File name to sha256, as `SHA256SUMS` lists them.

    Raises
    ------
    WeightsError : a file of the folder, or its line in SHA256SUMS, is missing.
    """
    _check_there(folder, (*CHECKED, SUMS))
    lines = (folder / SUMS).read_text("utf-8", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (*CHECKED, ORGAN_HEAD):
        if name not in sums and (folder / name).is_file():
            raise WeightsError(f"{folder / SUMS} has no line for {name}; copy the weights again")
    _check_there(folder, [name for name in sums if name == ORGAN_HEAD])
    return sums


def _check_there(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(
                f"the weights folder {folder} has no {name}; copy it again, or give another with --weights"
            )


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over the files of a weights folder that are made with it."""
    names = [name for name in (*CHECKED, ORGAN_HEAD) if name in CHECKED or (folder / name).is_file()]
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), "utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
