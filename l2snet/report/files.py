"""What `l2snet report` writes: the page, and on demand every picture of it as a file."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from l2snet.errors import OutputError
from l2snet.report.casepage import Options, lesion_slices, title_of, write_report
from l2snet.report.findings import Findings
from l2snet.report.pictures import projection_picture, slice_picture
from l2snet.report.rotation import animated, turning_frames
from l2snet.report.strings import STRINGS, shown

logger = logging.getLogger(__name__)

PROJECTION, ROTATION, SLICE = "projection.png", "rotation.webp", "lesion_{number:03d}.png"
OLD_SLICE = re.compile(r"lesion_\d{3,}\.png")


def write_files(findings: Findings, page: Path, options: Options, pictures: bool) -> None:
    """Write the page, and beside it, where asked for, projection.png, rotation.webp and lesion_001.png and so on.

    Raises
    ------
    MissingPackageError : the extra `report` is not installed.
    OutputError : a file cannot be written.
    """
    write_report(findings, page, options)
    logger.info("%s: %.1f MB", page, page.stat().st_size / 1e6)
    if pictures:
        try:
            write_pictures(findings, page.parent, options.max_suv)
        except OSError as error:
            raise OutputError(f"{page.parent} cannot be written to ({error.strerror or error})") from error


def write_pictures(findings: Findings, folder: Path, max_suv: float) -> None:
    """Write every picture of a report; slices of the largest lesions, as many as the page has."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # of a run that found more lesions
        if OLD_SLICE.fullmatch(path.name):
            path.unlink()
    burden, columns = findings.burden, STRINGS["totals"]
    volume = f"{columns['tmtv_ml'][0]} {shown(burden.tmtv_ml, 'tmtv_ml')} {columns['tmtv_ml'][1]}"
    title = f"{findings.name}: {columns['lesions'][0]} {burden.lesions}, {volume}"
    projection_picture(findings.case.suv, findings.measurement.labels, folder / PROJECTION, title, max_suv)
    frames = turning_frames(findings.suv, findings.labels, findings.box, max_suv)
    (folder / ROTATION).write_bytes(animated(frames))
    name = title_of(findings)
    for number, view in lesion_slices(findings):
        slice_picture(view, folder / SLICE.format(number=number), name(number), max_suv)
