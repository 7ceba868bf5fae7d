"""`l2snet prepare`: from a download to study folders, the container's input, or a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.extras import TRAINING, needs, require
from l2snet.cli.options import DataArgument, ResampleOption, TrainingDataArgument
from l2snet.sources.suv import TimeConvention

app = typer.Typer(help="Make study folders, or the container's input, from a download.", no_args_is_help=True)

PreparedArgument = Annotated[Path, typer.Argument(help="Folder to write; studies that it holds already are kept.")]
MaskOptionalOption = Annotated[
    bool, typer.Option("--mask-optional", help="Prepare a study without a mask too; it serves no training.")
]
PrepareWorkersOption = Annotated[int, typer.Option(min=1, help="Studies at a time; each is held in memory.")]


@app.command("autopet")
def prepare_autopet(
    root: Annotated[
        Path, typer.Argument(metavar="DICOM_ROOT", help="Folder of DICOM, as the TCIA's downloader left it.")
    ],
    out: PreparedArgument,
    time_convention: Annotated[
        TimeConvention,
        typer.Option(help="Moment that the PET is corrected to: as the public autoPET data have it, or QIBA's rule."),
    ] = TimeConvention.challenge,
    mask_optional: MaskOptionalOption = False,
    series: Annotated[
        list[str] | None, typer.Option(help="SeriesInstanceUID to take where a study offers several; may be repeated.")
    ] = None,
    workers: PrepareWorkersOption = 1,
) -> None:
    """DICOM PET, CT and SEG to OUT/PATIENT/STUDY/{SUV,CTres,CT,PET,SEG}.nii.gz."""
    with needs("reading DICOM", "dicom"):
        from l2snet.prepare.autopet import prepare_autopet
    prepare_autopet(root, out, time_convention, mask_optional, series or (), workers)


@app.command("nifti")
def prepare_nifti(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that the patterns start from.")],
    out: PreparedArgument,
    pet: Annotated[str, typer.Option(help="Where a case's PET in SUV lies.")] = "{case}/SUV.nii.gz",
    ct: Annotated[str, typer.Option(help="Where its CT in HU lies, on any grid.")] = "{case}/CT.nii.gz",
    mask: Annotated[str, typer.Option(help="Where its lesion mask lies.")] = "{case}/SEG.nii.gz",
    mask_optional: MaskOptionalOption = False,
    resample_mask: Annotated[
        bool, typer.Option("--resample-mask", help="Bring a mask on another grid onto the PET's (nearest neighbour).")
    ] = False,
    workers: PrepareWorkersOption = 1,
) -> None:
    """PET (SUV) and CT in NIfTI, on different grids, to OUT/CASE/{SUV,CTres,CT,SEG}.nii.gz."""
    from l2snet.prepare.nifti import Patterns, prepare_nifti

    prepare_nifti(root, out, Patterns(pet, ct, mask), mask_optional, resample_mask, workers)


@app.command("mha")
def prepare_mha(
    data: DataArgument,
    out: PreparedArgument,
    truth: Annotated[Path | None, typer.Option(help="Folder for the lesion masks, as STUDY.mha.")] = None,
    workers: PrepareWorkersOption = 1,
) -> None:
    """Study folders to OUT/STUDY/images/{pet,ct}/STUDY.mha, an input folder of the container each."""
    from l2snet.prepare.mha import prepare_mha

    prepare_mha(data, out, truth, workers)


@app.command("lmdb")
def prepare_lmdb(
    data: TrainingDataArgument,
    store: Annotated[Path, typer.Argument(help="File to write; one that was stopped goes on.")],
    resample_ct: ResampleOption = False,
) -> None:
    """Study folders to one compressed LMDB file, from which l2snet train step-by-step reads crops."""
    require("the store", "train", *TRAINING)
    from l2snet.prepare.store import prepare_store

    prepare_store(data, store, resample_ct)
