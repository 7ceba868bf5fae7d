"""Every case of an evaluation as a point, and one case of several methods as a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from l2snet.evaluation.summary import Table
from l2snet.report.pictures import new_figure

PANELS = (("dice", "Dice", False), ("fpv_ml", "FPV, ml", True), ("fnv_ml", "FNV, ml", True))
# Volumes run from 0 to litres: below this many ml the axis is linear.
LINEAR_ML = 1.0
TICKS_ML = (0, 0.5, 1, 10, 100, 1000, 10000)
SPREAD = 0.16
LONGEST_LABEL = 24
POINT, LINE, BOX = "#0072b2", "0.75", "black"


def cases_picture(table: Table, path: Path) -> None:
    """Dice, FPV and FNV of every case by method, with a box of the quartiles, as a PNG.

    The points of a case are joined where there are several methods. Dice and FNV are of the cases with lesions.

    Parameters
    ----------
    table : row name to case name to numbers.

    Raises
    ------
    MissingPackageError : matplotlib is not installed.
    """
    figure = new_figure(figsize=(3 * (1.6 + 0.8 * len(table)), 4.6), dpi=120, layout="constrained")
    from matplotlib.ticker import NullLocator

    names = list(table)
    labels = [name if len(name) <= LONGEST_LABEL else f"…{name[1 - LONGEST_LABEL :]}" for name in names]
    cases = sorted({case for rows in table.values() for case in rows})
    shifts = np.random.default_rng(0).uniform(-SPREAD, SPREAD, len(cases)) if len(cases) > 1 else np.zeros(1)
    places = np.arange(len(names))[:, None] + shifts
    for ax, (column, label, logarithmic) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        values = np.array([[table[name].get(case, {}).get(column, np.nan) for case in cases] for name in names])
        if len(names) > 1:
            ax.plot(places, values, color=LINE, lw=0.7, zorder=1)
        ax.plot(places.ravel(), values.ravel(), "o", color=POINT, ms=3.5, alpha=0.7, mew=0, zorder=4)
        defined = [row[~np.isnan(row)] for row in values]
        style = {"color": BOX, "lw": 1.2}
        ax.boxplot(
            defined,
            positions=range(len(names)),
            widths=0.5,
            showfliers=False,
            zorder=3,
            boxprops=style,
            whiskerprops=style,
            capprops=style,
            medianprops={**style, "lw": 2.2},
        )
        if logarithmic:
            ax.set_yscale("symlog", linthresh=LINEAR_ML)
            ax.set_yticks(TICKS_ML, [f"{tick:g}" for tick in TICKS_ML])
            ax.yaxis.set_minor_locator(NullLocator())
            ax.set_ylim(-0.05, max(10.0, *(1.5 * row.max(initial=0) for row in defined)))
        else:
            ax.set_ylim(-0.02, 1.02)
        counts = sorted({len(row) for row in defined})
        ax.set_title(f"{label}\n{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} cases", fontsize=10)
        ax.set_xticks(range(len(names)), labels, rotation=30, ha="right", fontsize=9)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
