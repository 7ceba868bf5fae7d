"""How well a method's weights do on cases they were not trained on: the method's rows, and a fixed SUV."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2snet import __version__
from l2snet.case import Case
from l2snet.errors import InputError, WeightsError
from l2snet.evaluation.metrics import measure
from l2snet.evaluation.records import Records, fingerprint, with_nan, write_json
from l2snet.evaluation.summary import Row, Table, markdown, summaries
from l2snet.pipeline import L2SNet, Method
from l2snet.progress import track
from l2snet.sources.autopet import CT, CT_RESAMPLED, LESIONS, SUV, find_studies, patients_among, patients_of, read_study
from l2snet.volume import Array
from l2snet.weights import NETWORK, find_weights, read_sums

logger = logging.getLogger(__name__)

FIXED_SUV = 2.0
METRICS = "metrics.json"


def held_out(roots: Sequence[Path], method: Method, calibrating: bool = False) -> list[Path]:
    """Study folders under `roots` of patients whom no network of the method was trained on, as their configs record it.

    Parameters
    ----------
    calibrating : those that the thresholds were chosen on are among them, to choose anew.

    Raises
    ------
    InputError : every patient of a root was trained on, or two studies have one name.
    """
    networks = [network for folds in method.networks.values() for network in folds]
    if any("cases" not in network.config.trained for network in networks):
        raise InputError("these weights do not say what they were trained on; no case can be called held out")
    patients = patients_of(roots)
    known = [one.config.learnt_cases if calibrating else one.config.seen_cases for one in networks]
    seen = patients_among(frozenset().union(*known), patients)
    studies: dict[str, Path] = {}
    for root in roots:
        new = [folder for folder in find_studies(root) if patients[folder.name] not in seen]
        if not new:
            raise InputError(
                f"every study under {root} is of a patient used to train these weights; a result would mean nothing"
            )
        for folder in new:
            if folder.name in studies:
                raise InputError(f"{folder} and {studies[folder.name]} have one name; rename one")
            studies[folder.name] = folder
    return list(studies.values())


def validate(
    method: Method, studies: Sequence[Path], resample_ct: bool, work: Path | None = None
) -> dict[str, dict[str, Row]]:
    """Row name to case name to numbers (`l2snet.evaluation.metrics.Scores`), on each PET's own grid.

    Parameters
    ----------
    resample_ct : bring a CT on another grid onto the PET's; a study may have none.
    work : folder of one file per case, so that what was stopped goes on; a case is computed again when the weights, a
        setting or its files have changed.
    """
    records = None if work is None else Records(work)
    configs = {role: [repr(one.config) for one in networks] for role, networks in method.networks.items()}
    table: dict[str, dict[str, Row]] = {}
    for folder in track(studies, "cases", len(studies)):
        files = [fingerprint(folder / name) for name in (SUV, CT_RESAMPLED, CT, LESIONS) if (folder / name).is_file()]
        key = [__version__, method.settings, configs, resample_ct, *files]
        rows = None if records is None else records.get(folder.name, key)
        if rows is None:
            case = read_study(folder, resample_ct, ct_optional=True)
            rows = {name: score(case, mask) for name, mask in predictions(method, case).items()}
            if records is not None:
                records.put(folder.name, key, rows)
        for name, row in rows.items():
            table.setdefault(name, {})[folder.name] = row
        logger.info("%s done", folder.name)
    return table


def predictions(method: Method, case: Case) -> dict[str, Array]:
    """The masks of a case that are compared: a fixed SUV, and the method's own rows."""
    fixed = (case.suv.array > FIXED_SUV).astype(np.uint8)
    return {f"SUV > {FIXED_SUV:g}": fixed, **method.rows(method.segment(case))}


def paper_masks(method: L2SNet, case: Case) -> dict[str, Array]:
    """The masks of the paper's Fig. 3: 2D network, 3D network, and the method as it is set."""
    result = method.segment(case)
    if result.cue is None:
        raise ValueError("the figure compares a method with a location cue")
    return {
        "2D U-Net": (result.cue.array > method.thresholds()["cue"]).astype(np.uint8),
        "3D U-Net": (result.probability.array > 0.5).astype(np.uint8),
        "L2SNet": result.mask.array,
    }


def score(case: Case, mask: Array) -> Row:
    """The numbers of one (z, y, x) mask; Dice and FNV are NaN where there is no lesion (challenge2024).

    Raises
    ------
    InputError : the case has no lesion mask.
    """
    if case.lesions is None:
        raise InputError(f"case {case.name} has no lesion mask to compare with")
    return measure(case.lesions.array > 0.5, mask, case.geometry.spacing_mm).row()


def write_metrics(table: Table, method: Method, weights: Path | None, name: str) -> None:
    """Record a table under a name in metrics.json, each row beside the network that the method keeps it with.

    Tables of other names stay, unless they are of other weights.
    """
    for role in method.roles:
        path = find_weights(role, weights) / METRICS
        kept = {
            source: record
            for source, record in _read(path).items()
            if record["settings"]["weights_sha256"] == method.settings["weights_sha256"]
        }
        part = {row: table[row] for row in table if method.role_of(row) == role}
        record = {"settings": method.settings, "means": means(part), "cases": part}
        write_json({**kept, name: record}, path)


def read_metrics(roles: Sequence[str], weights: Path | None) -> dict[str, dict[str, dict[str, Row]]]:
    """Name to table, as `write_metrics` recorded them beside the networks of these roles; none that is of other ones.

    Raises
    ------
    WeightsError : nothing is recorded.
    """
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    folders = {role: find_weights(role, weights) for role in roles}
    now = {role: [read_sums(folder)[NETWORK]] for role, folder in folders.items()}
    for folder in folders.values():
        for name, record in _read(folder / METRICS).items():
            if record["settings"]["weights_sha256"] != now:
                logger.warning("the table %r in %s is of other weights; it is left out", name, folder / METRICS)
                continue
            tables.setdefault(name, {}).update(with_nan(record["cases"]))
    if not tables:
        raise WeightsError(
            f"no table is recorded in {folders[roles[0]].parent}; make one with l2snet validate --record NAME"
        )
    return tables


def _read(path: Path) -> dict[str, Any]:
    """Name to record of a metrics.json; empty where there is none, or one in the format of version 0.1."""
    if not path.is_file():
        return {}
    try:
        records: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if "settings" in records:
            logger.warning("%s has a table without a name, of an earlier version; it is not read", path)
            return {}
        if not all({"settings", "cases"} <= set(record) for record in records.values()):
            raise ValueError("a table without settings or cases")
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); remove it and record again") from error
    return records


def means(table: Table) -> dict[str, Row]:
    """Mean per row over the cases where the number is defined (challenge2024); NaN where it is for none."""
    result: dict[str, Row] = {}
    for name, rows in table.items():
        columns = next(iter(rows.values()))
        values = {column: [row[column] for row in rows.values() if np.isfinite(row[column])] for column in columns}
        result[name] = {column: float(np.mean(v)) if v else float("nan") for column, v in values.items()}
    return result


def report(table: Table) -> str:
    """A table as Markdown."""
    return markdown(summaries(table))
