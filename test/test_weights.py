"""Weights folders: what is checked, what is refused and how it is said, where they are looked for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from l2snet import weights
from l2snet.errors import WeightsError
from l2snet.preprocess import WORKING_SPACING_MM, Window
from l2snet.weights import (
    CHALLENGE_MODEL,
    CONFIG,
    LOCALIZER,
    NETWORK,
    SEGMENTER,
    SUMS,
    NetworkConfig,
    find_weights,
    read_config,
    read_sums,
    sha256,
    write_sums,
)

LOCALIZER_CONFIG = NetworkConfig(
    network=LOCALIZER,
    architecture={"in_channels": 3, "widths": [8, 4]},
    pet=Window(0.0, 35.0, -1.0, 1.0),
    slices=3,
    thresholds={"cue": 0.5},
    trained={"cases": ["a"], "epochs": 2},
)
SEGMENTER_CONFIG = NetworkConfig(
    network=SEGMENTER,
    architecture={"in_channels": 2, "norm": "window"},
    pet=Window(0.0, 15.0),
    ct=Window(-100.0, 250.0),
    window=(64, 96, 80),
    multiple=8,
    thresholds={"on_cue": 0.1, "off_cue": 0.5},
)
BOTH = pytest.mark.parametrize("config", [LOCALIZER_CONFIG, SEGMENTER_CONFIG], ids=[LOCALIZER, SEGMENTER])


def write(folder: Path, config: str | NetworkConfig = SEGMENTER_CONFIG) -> Path:
    """A folder of weights with right hashes; the network is any file here."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(config if isinstance(config, str) else config.to_json(), "utf-8")
    (folder / NETWORK).write_bytes(b"not a network, but with a hash")
    write_sums(folder)
    return folder


def with_values(**changes: Any) -> str:
    """The segmenter's config.json with other values; None takes a field away."""
    values = {**json.loads(SEGMENTER_CONFIG.to_json()), **changes}
    return json.dumps({name: value for name, value in values.items() if value is not None})


# What is read


@BOTH
def test_config_round_trip(tmp_path: Path, config: NetworkConfig) -> None:
    assert NetworkConfig.from_json(config.to_json()) == config
    assert read_config(write(tmp_path / "w", config)) == config


def test_config_defaults() -> None:
    assert LOCALIZER_CONFIG.multiple == 32
    assert LOCALIZER_CONFIG.spacing_mm == WORKING_SPACING_MM
    default = NetworkConfig(LOCALIZER, {}, Window(0, 1), thresholds={"cue": 0.5})
    assert default.slices == default.slice_stride == 1


def test_sums_are_sha256(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG, NETWORK)}
    assert read_sums(folder) == digests
    assert sha256(folder / NETWORK) == digests[NETWORK]
    assert (folder / SUMS).read_text() == f"{digests[CONFIG]}  {CONFIG}\n{digests[NETWORK]}  {NETWORK}\n"


def test_sha256_of_a_known_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum program")
@pytest.mark.parametrize(("altered", "code"), [(False, 0), (True, 1)])
def test_sha256sum_reads_the_sums(tmp_path: Path, altered: bool, code: int) -> None:
    folder = write(tmp_path / "w")
    if altered:
        (folder / NETWORK).write_bytes(b"other")
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, check=False)
    assert done.returncode == code


# What is refused


@pytest.mark.parametrize("name", [CONFIG, NETWORK])
def test_an_altered_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "w")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1  # one bit
    (folder / name).write_bytes(data)
    with pytest.raises(WeightsError, match=re.escape(f"{folder / name} was altered")):
        read_config(folder)


@pytest.mark.parametrize("name", [CONFIG, NETWORK])
def test_a_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "w")
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(WeightsError, match=re.escape(f"{folder / name} was altered")):
        read_config(folder)


@pytest.mark.parametrize("name", [CONFIG, NETWORK, SUMS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "w")
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=re.escape(f"{folder} has no {name}")):
        read_config(folder)


@pytest.mark.parametrize("name", [CONFIG, NETWORK])
def test_a_missing_line_of_the_sums_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "w")
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    (folder / SUMS).write_text("".join(line for line in lines if not line.endswith(f"{name}\n")))
    with pytest.raises(WeightsError, match=re.escape(f"{folder / SUMS} has no line for {name}")):
        read_config(folder)


def test_a_sum_of_another_length_is_no_match(tmp_path: Path) -> None:
    folder = write(tmp_path / "w")
    (folder / SUMS).write_text(f"  {CONFIG}\n  {NETWORK}\n")
    with pytest.raises(WeightsError, match=re.escape(f"{folder / CONFIG} was altered")):
        read_config(folder)


REFUSED = {
    "no JSON": ("{", "Expecting"),
    "not an object": ("[1]", ""),
    "a number": ("1", ""),
    "other format": (with_values(format=2), "format 2; this program reads format 1"),
    "no format": (with_values(format=None), "format None"),
    "unknown field": (with_values(colour="red"), r"unknown fields \['colour'\]"),
    "missing field": (with_values(pet=None), "pet"),
    "other network": (with_values(network="classifier"), "network is 'classifier'"),
    "unknown field of a window": (with_values(pet={"low": 0, "high": 1, "mid": 2}), "mid"),
    "empty window": (with_values(pet={"low": 1, "high": 1}), "empty"),
    "even slices": (with_values(slices=2), "slices is 2; expected 1, 3, 5 or 7"),
    "nine slices": (with_values(slices=9), "slices is 9"),
    "even slice_stride": (with_values(slice_stride=2), "slice_stride is 2; expected 1, 3, 5 or 7"),
    "broken slice_stride": (with_values(slice_stride=3.0), "slice_stride is 3.0"),
    "a fourth axis": (with_values(mirror_axes=(2, 3)), r"mirror_axes are .2, 3.; expected some of 0, 1 and 2"),
    "no window": (with_values(window=None), "a segmenter needs a window"),
    "window off the multiple": (with_values(window=[64, 96, 81]), "is not a multiple of 8"),
    "multiple of zero": (with_values(multiple=0), "multiple"),
    "half a voxel": (with_values(stride=[1, 2.5, 2]), "stride is .1, 2.5, 2.; expected three whole numbers"),
    "stride of two axes": (with_values(stride=[2, 2]), "stride is .2, 2."),
    "stride of zero": (with_values(stride=[1, 0, 1]), "stride is .1, 0, 1."),
    "window of two axes": (with_values(window=[64, 96]), "window"),
    "no thresholds": (with_values(thresholds={}), r"expected \['off_cue', 'on_cue'\]"),
    "one threshold": (with_values(thresholds={"on_cue": 0.1}), "thresholds are"),
    "a third threshold": (with_values(thresholds={"on_cue": 0.1, "off_cue": 0.5, "cue": 0.5}), "thresholds are"),
    "threshold above 1": (with_values(thresholds={"on_cue": 0.1, "off_cue": 1.5}), "each in 0..1"),
    "threshold below 0": (with_values(thresholds={"on_cue": -0.1, "off_cue": 0.5}), "each in 0..1"),
    "threshold no number": (with_values(thresholds={"on_cue": "low", "off_cue": 0.5}), ""),
    "threshold not a number": (with_values(thresholds={"on_cue": float("nan"), "off_cue": 0.5}), "each in 0..1"),
    "thresholds a list": (with_values(thresholds=["on_cue", "off_cue"]), ""),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_a_config_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    folder = write(tmp_path / "w", text)
    with pytest.raises(WeightsError, match=re.escape(f"{folder / CONFIG} cannot be used: ") + f".*{says}"):
        read_config(folder)


def test_a_localizer_has_a_window_of_a_slice_or_none_and_one_threshold() -> None:
    assert LOCALIZER_CONFIG.window is None
    with_window = replace(LOCALIZER_CONFIG, window=(64, 32))
    assert NetworkConfig.from_json(with_window.to_json()) == with_window
    with pytest.raises(ValueError, match="of a localizer does not have 2 axes"):
        replace(LOCALIZER_CONFIG, window=(32, 32, 32))
    with pytest.raises(ValueError, match="of a localizer 1"):
        replace(LOCALIZER_CONFIG, stride=(1, 2, 2))
    with pytest.raises(ValueError, match=r"expected \['cue'\]"):
        replace(LOCALIZER_CONFIG, thresholds={"on_cue": 0.1, "off_cue": 0.5})


@pytest.mark.parametrize("threshold", [0, 0.0, 1, 1.0])
def test_thresholds_at_the_ends_are_allowed(threshold: float) -> None:
    assert replace(LOCALIZER_CONFIG, thresholds={"cue": threshold}).thresholds == {"cue": threshold}


# Where they are looked for


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The four places weights may lie in, none of them there yet."""
    package = tmp_path / "site" / "l2snet"
    monkeypatch.setattr(weights, "CHALLENGE_MODEL", tmp_path / "opt" / "ml" / "model")
    monkeypatch.setattr(weights, "__file__", str(package / "weights.py"))
    return {
        "chosen": tmp_path / "chosen",
        "challenge": tmp_path / "opt" / "ml" / "model",
        "wheel": package / "weights",
        "checkout": tmp_path / "site" / "weights",
    }


def test_challenge_unpacks_models_at_opt_ml_model() -> None:
    assert Path("/opt/ml/model") == CHALLENGE_MODEL


@pytest.mark.parametrize("network", [LOCALIZER, SEGMENTER])
def test_lookup_order(places: dict[str, Path], network: str) -> None:
    """From the last place to the first: each new folder wins over those after it."""
    for name in ("checkout", "wheel", "challenge"):
        (places[name] / network).mkdir(parents=True)
        assert find_weights(network) == places[name] / network
    (places["chosen"] / network).mkdir(parents=True)
    assert find_weights(network) == places["challenge"] / network
    assert find_weights(network, places["chosen"]) == places["chosen"] / network


def test_a_copy_without_this_network_is_passed_over(places: dict[str, Path]) -> None:
    (places["wheel"] / LOCALIZER).mkdir(parents=True)
    (places["checkout"] / SEGMENTER).mkdir(parents=True)
    places["challenge"].mkdir(parents=True)  # there, and empty: nothing was uploaded
    assert find_weights(SEGMENTER) == places["checkout"] / SEGMENTER
    assert find_weights(LOCALIZER) == places["wheel"] / LOCALIZER


def test_an_uploaded_model_is_never_mixed_with_the_programs_own(places: dict[str, Path]) -> None:
    (places["challenge"] / LOCALIZER).mkdir(parents=True)
    (places["wheel"] / SEGMENTER).mkdir(parents=True)
    assert find_weights(LOCALIZER) == places["challenge"] / LOCALIZER
    with pytest.raises(WeightsError, match=re.escape(f"(looked for {places['challenge'] / SEGMENTER})")):
        find_weights(SEGMENTER)


def test_chosen_weights_are_never_replaced_by_others(places: dict[str, Path]) -> None:
    (places["challenge"] / SEGMENTER).mkdir(parents=True)
    (places["chosen"] / LOCALIZER).mkdir(parents=True)
    looked = re.escape(f"(looked for {places['chosen'] / SEGMENTER})")
    with pytest.raises(WeightsError, match=f"no weights of the segmenter were found {looked}; .* --weights"):
        find_weights(SEGMENTER, places["chosen"])


def test_no_weights_names_every_place(places: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="no weights of the localizer") as caught:
        find_weights(LOCALIZER)
    for name in ("wheel", "checkout"):
        assert str(places[name] / LOCALIZER) in str(caught.value)
