"""Every input of `reliability.py` gives the result it must have."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_weights import write_known_weights
from reliability import folder_for_all, problem, run
from reliability_inputs import INPUTS, Trial


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Not pytest's own folder, which other users cannot look into."""
    folder = folder_for_all()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def weights(root: Path) -> Path:
    return write_known_weights(root / "weights")


@pytest.mark.parametrize("trial", INPUTS, ids=lambda trial: trial.name)
def test_an_input_gives_what_it_must(root: Path, weights: Path, trial: Trial):
    if trial.missing:
        pytest.skip(trial.missing)
    folder = root / "trial"
    try:
        ended, due = run(trial, folder, weights)
        assert not problem(trial, ended, due, folder)
    finally:
        shutil.rmtree(folder)


def test_there_are_enough_inputs_and_each_has_a_name_of_its_own():
    assert len({trial.name for trial in INPUTS}) == len(INPUTS) >= 60
