"""Means, intervals and conventions, of numbers that can be added up by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from l2snet.errors import OutputError
from l2snet.evaluation.records import Records, write_json
from l2snet.evaluation.summary import markdown, mean, summaries, summarise, under

NAN = float("nan")


def row(dice: float, fpv_ml: float, fnv_ml: float, lesions: float) -> dict[str, float]:
    return {
        **dict.fromkeys(("sensitivity", "precision", "false_positives", "tmtv_error_ml", "volume_error"), 0.0),
        "dice": dice,
        "fpv_ml": fpv_ml,
        "fnv_ml": fnv_ml,
        "lesions": lesions,
        "surface_dice": NAN,
    }


# Two cases with lesions and three without.
ROWS = [
    row(0.9, 0, 1, 2),
    row(0.5, 2, 3, 1),
    row(NAN, 1, NAN, 0),
    row(NAN, 4, NAN, 0),
    row(NAN, 10, NAN, 0),
]


def test_the_conventions_differ_where_there_is_no_lesion() -> None:
    summary = summarise(ROWS)
    zero, left_out = summary.conventions["challenge2022"], summary.conventions["challenge2024"]
    assert (summary.cases, summary.with_lesions) == (5, 2)
    assert (left_out["dice"].mean, left_out["dice"].cases) == (pytest.approx(0.7), 2)  # (0.9 + 0.5) / 2
    assert (zero["dice"].mean, zero["dice"].cases) == (pytest.approx(0.28), 5)  # (0.9 + 0.5) / 5
    assert (left_out["fnv_ml"].mean, zero["fnv_ml"].mean) == (2, pytest.approx(0.8))  # 4 / 2 and 4 / 5
    for means in (zero, left_out):
        assert means["fpv_ml"].mean == pytest.approx(3.4)  # 17 / 5


def test_cases_without_lesions_are_told_apart() -> None:
    summary = summarise(ROWS)
    assert (summary.lesions["fpv_ml"].mean, summary.lesions["fpv_ml"].median) == (1, 1)
    assert (summary.lesion_free["fpv_ml"].mean, summary.lesion_free["fpv_ml"].median) == (5, 4)
    assert summary.lesion_free["dice"].cases == 0


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of challenge2022, challenge2024"):
        under(ROWS[0], "challenge2023")


def test_intervals() -> None:
    same = mean(np.array([3.0, 3.0, NAN, 3.0]))
    assert (same.mean, same.low, same.high, same.median, same.cases) == (3, 3, 3, 3, 3)
    none = mean(np.array([NAN]))
    assert (none.cases, str(none)) == (0, "-")
    assert np.isnan([none.mean, none.low, none.high, none.median]).all()
    # Of the mean of 100 values of spread 1, the interval is about 2 x 1.96 / 10 wide; the seed fixes it.
    values = np.random.default_rng(5).normal(size=100)
    interval = mean(values)
    assert interval.high - interval.low == pytest.approx(0.392 * values.std(), rel=0.05)
    assert interval.low < interval.mean < interval.high
    assert mean(values) == interval


def test_the_table() -> None:
    table = {"ours": {"a": ROWS[0], "b": ROWS[2]}, "theirs": {"a": ROWS[1]}}
    all_cases, with_lesions, lesion_free = markdown(summaries(table)).split("\n\n|")[1:]
    names = [line.split("|")[1].strip() for line in all_cases.splitlines()[2:4]]
    assert names == ["ours", "theirs"]
    assert "| 0.900 [0.900, 0.900] | 0.450 [0.000, 0.900]" in all_cases  # challenge2024 first
    assert "surface Dice" not in with_lesions  # it was not asked for
    assert "theirs | 0     | -" in lesion_free
    assert "seed 0" in markdown(summaries(table))
    assert markdown(summaries({})) == "No case was scored.\n"


def test_records_are_kept_under_their_key(tmp_path: Path) -> None:
    records = Records(tmp_path / "new")
    assert records.get("a/b", {"x": 1}) is None
    records.put("a/b", {"x": 1}, {"dice": NAN, "fpv_ml": 0.1 + 0.2})
    found = records.get("a/b", {"x": 1})
    assert np.isnan(found["dice"])
    assert found["fpv_ml"] == 0.1 + 0.2
    assert records.get("a/b", {"x": 2}) is None
    assert "NaN" not in next((tmp_path / "new").iterdir()).read_text()


def test_json_is_whole_or_not_there(tmp_path: Path) -> None:
    write_json({"a": [1.5, NAN, (2,)]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None, [2]]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_json({}, tmp_path / "file" / "a.json")
