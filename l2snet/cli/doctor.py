"""`l2snet doctor`: whether this installation can be trusted with a case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from l2snet.cli.options import Device, DeviceOption, MethodOption, Precision, PrecisionOption
from l2snet.errors import L2SNetError

app = typer.Typer()


@app.command()
def doctor(
    weights: Annotated[Path | None, typer.Option(help="Weights folder (holds the method's networks).")] = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.exact,
    method: MethodOption = "l2snet",
) -> None:
    """Tell what is installed, which device is used and why, and the weights' state, and run a small case."""
    from l2snet.doctor import examine
    from l2snet.methods import check_method

    check_method(method)
    wrong = []
    for finding in examine(method, weights, device, precision):
        typer.echo(f"{'WRONG' if finding.wrong else 'ok':6}{finding.what}: {finding.said}")
        if finding.wrong:
            wrong.append(finding.what)
    if wrong:
        raise L2SNetError(f"{len(wrong)} of the above must be mended: {', '.join(wrong)}")
