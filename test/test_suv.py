"""SUV factors: real headers, both time conventions by hand, midnight, and every refusal by its field's name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from l2snet.errors import InputError
from l2snet.sources.suv import PetHeader, TimeConvention, suv_factors
from l2snet.subject import WEIGHT_KG

CHALLENGE, QIBA = TimeConvention.challenge, TimeConvention.qiba
# Real headers with the factor that calculate-suv expects of each (MIT, see the LICENSE beside them).
REAL = json.loads((Path(__file__).parent / "suv_headers" / "headers.json").read_text("utf-8"))

# 70 kg, 280 MBq, injected a half-life (6600 s) before the series: 70000 / 140e6.
HEADER = PetHeader(
    units="BQML",
    corrected_image=("DECY", "ATTN"),
    decay_correction="START",
    series_date="20200101",
    series_time="115000",
    acquisition_date="20200101",
    acquisition_time="120100",
    actual_frame_duration_ms=120000.0,
    weight_kg=70.0,
    dose_bq=280e6,
    half_life_s=6600.0,
    injection_time="100000.00",
)


def factor(header: PetHeader, convention: TimeConvention = QIBA) -> float:
    (value,) = suv_factors([header], convention).values
    return value


@pytest.mark.parametrize("name", REAL)
def test_real_headers_give_the_listed_factor(name: str):
    values = dict(REAL[name]["header"])
    values["PhilipsSUVScaleFactor"] = values.pop("PhilipsPETPrivateGroup").get("SUVScaleFactor")
    assert factor(PetHeader.from_keywords(values)) == pytest.approx(REAL[name]["suvbw_factor"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in REAL if "PHILIPS" not in name])
def test_the_challenge_counts_from_the_acquisition(name: str):
    # seconds from injection to AcquisitionTime: 08:30:45 to 10:48:30.351370, and so on
    seconds = {"SIEMENS": 8265.35137, "GE_MEDICAL_AND_BQML": 4281.0, "BQML_AC_DT_lessThan_S_DT_SIEMENS": 3254.999995}
    values = REAL[name]["header"]
    decay = 2 ** (seconds[name] / values["RadionuclideHalfLife"])
    expected = 1000 * values["PatientWeight"] / values["RadionuclideTotalDose"] * decay
    assert factor(PetHeader.from_keywords(values), CHALLENGE) == pytest.approx(expected, rel=1e-9)


def test_both_conventions_by_hand():
    assert factor(HEADER, QIBA) == pytest.approx(5e-4, rel=1e-12)
    assert factor(HEADER, CHALLENGE) == pytest.approx(5e-4 * 2**0.1, rel=1e-12)


def test_the_challenge_takes_the_first_file_and_qiba_the_earliest_slice():
    later = replace(HEADER, acquisition_time="114900")  # before the series: QIBA counts from there
    slices = [HEADER, replace(later, frame_reference_time_ms=0.0)]
    assert suv_factors(slices, CHALLENGE).values == pytest.approx([5e-4 * 2**0.1] * 2)
    assert suv_factors(slices, QIBA).values == pytest.approx([5e-4 * 2 ** (-60 / 6600)] * 2)


def test_a_series_made_later_counts_from_the_start_that_its_frames_give():
    # Frames of 120 s: their mean is 59.937 s in, by 1/l ln(lT / (1 - exp(-lT))); FrameReferenceTime says 659.937 s.
    made_later = replace(HEADER, series_time="130000", frame_reference_time_ms=659937.0)
    # so the start is 600 s before 12:01:00, or 11:51:00
    assert factor(made_later) == pytest.approx(5e-4 * 2 ** (60 / 6600), rel=1e-6)
    assert factor(replace(made_later, ge_scan_datetime="20200101115000.00")) == pytest.approx(5e-4)


@pytest.mark.parametrize("convention", list(TimeConvention))
def test_over_midnight(convention: TimeConvention):
    night = replace(
        HEADER,
        injection_time="230000",
        series_date="20200102",
        series_time="005000",
        acquisition_date="20200102",
        acquisition_time="005000",
    )
    assert factor(night, convention) == pytest.approx(5e-4, rel=1e-12)
    # an acquisition without a date, after a series that began before midnight
    undated = replace(night, series_date="20200101", series_time="235000", acquisition_date=None)
    expected = 5e-4 if convention is CHALLENGE else 2.5e-4 * 2 ** (3000 / 6600)
    assert factor(undated, convention) == pytest.approx(expected, rel=1e-12)


def test_of_two_times_twelve_hours_away_the_injection_is_the_earlier():
    # Noon is as far from midnight on the day before as on the day after; a half-life of twelve hours makes 2.5e-4 * 2.
    midnight = replace(HEADER, acquisition_time="000000", injection_time="120000", half_life_s=43200.0)
    assert factor(midnight, CHALLENGE) == pytest.approx(5e-4, rel=1e-12)


def test_an_injection_with_a_date_is_believed_by_qiba_alone():
    shifted = replace(HEADER, injection_datetime="20200102100000.00")  # as some anonymisers leave it
    with pytest.raises(InputError, match=r"RadiopharmaceuticalStartDateTime.*22\.2 h after.*challenge"):
        factor(shifted, QIBA)
    assert factor(shifted, CHALLENGE) == factor(HEADER, CHALLENGE)
    dated = replace(HEADER, injection_datetime="20200101100000.00 ", injection_time=None)
    assert factor(dated, QIBA) == factor(HEADER, QIBA)
    assert factor(dated, CHALLENGE) == factor(HEADER, CHALLENGE)


def test_an_offset_from_utc_is_turned_into_the_header_s():
    away = replace(HEADER, injection_datetime="20200101090000+0000", utc_offset="+0100")
    assert factor(away) == pytest.approx(5e-4)
    assert factor(replace(away, injection_datetime="20200101100000+0100", utc_offset=None)) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("injected", "offset"),
    [
        ("20200101080000-0100", "+0100"),  # 09:00 UTC
        ("20200101043000+0000", "+0530"),
        (" 20200101043000+0000 ", " +0530 "),
        ("20200101100000", "+0530"),  # no offset of its own: local already
        ("20200101100000-0100", ""),
    ],
)
def test_every_offset_comes_to_ten_o_clock(injected: str, offset: str):
    assert factor(replace(HEADER, injection_datetime=injected, utc_offset=offset)) == pytest.approx(5e-4, rel=1e-12)
    scanned = {"series_time": "130000", "ge_scan_datetime": injected, "injection_time": "080950"}  # 6610 s before
    assert factor(replace(HEADER, **scanned, utc_offset=offset)) == pytest.approx(5e-4 * 2 ** (10 / 6600), rel=1e-9)


@pytest.mark.parametrize("time", ["10", "1000", "10:00:00", "100000.000000 "])
def test_a_time_may_leave_out_its_end(time: str):
    assert factor(replace(HEADER, injection_time=time)) == pytest.approx(5e-4, rel=1e-12)


def test_of_a_dated_injection_the_challenge_takes_the_whole_time_of_day():
    dated = replace(HEADER, injection_datetime="20191224101530.5", injection_time=None)
    assert factor(dated, CHALLENGE) == pytest.approx(2.5e-4 * 2 ** (6329.5 / 6600), rel=1e-12)  # to 12:01:00


def test_a_series_without_a_date_has_its_acquisition_s():
    assert factor(replace(HEADER, series_date=None)) == pytest.approx(5e-4, rel=1e-12)


NOT_CORRECTED = replace(HEADER, decay_correction="NONE", corrected_image=("ATTN",))
MADE_LATER = replace(HEADER, series_time="130000")
OF_PHILIPS = replace(HEADER, units="CNTS", philips_activity_factor=0.5)


@pytest.mark.parametrize(
    ("header", "convention", "rule"),
    [
        (replace(HEADER, units="GML"), QIBA, "units GML: SUV (BW) already"),
        (replace(OF_PHILIPS, philips_suv_factor=0.5), QIBA, "Philips SUV scale factor (7053,1000)"),
        (OF_PHILIPS, QIBA, "Philips activity factor (7053,1009); SeriesTime"),
        (OF_PHILIPS, CHALLENGE, "Philips activity factor (7053,1009); AcquisitionTime of the first file"),
        (replace(HEADER, decay_correction="ADMIN"), QIBA, "DecayCorrection ADMIN: no decay"),
        (NOT_CORRECTED, QIBA, "DecayCorrection NONE: the mean of each slice's frame"),
        (HEADER, CHALLENGE, "AcquisitionTime of the first file"),
        (HEADER, QIBA, "SeriesTime"),
        # a series made as its first slice was acquired was not made after it
        (replace(HEADER, series_time="120100", ge_scan_datetime="20200101115000"), QIBA, "SeriesTime"),
        (replace(MADE_LATER, ge_scan_datetime="20200101115000"), QIBA, "GE scan time (0009,100D)"),
        (
            replace(MADE_LATER, frame_reference_time_ms=1.0, actual_frame_duration_ms=1.0),
            QIBA,
            "FrameReferenceTime and ActualFrameDuration",
        ),
        (replace(MADE_LATER, frame_reference_time_ms=0.0), QIBA, "earliest AcquisitionTime"),
        (
            replace(MADE_LATER, frame_reference_time_ms=1.0, actual_frame_duration_ms=None),
            QIBA,
            "earliest AcquisitionTime",
        ),
        (
            replace(MADE_LATER, frame_reference_time_ms=1.0, actual_frame_duration_ms=0.0),
            QIBA,
            "earliest AcquisitionTime",
        ),
    ],
)
def test_the_rule_is_named(header: PetHeader, convention: TimeConvention, rule: str):
    assert suv_factors([header], convention).rule == rule


def test_what_was_corrected_to_the_injection_does_not_decay():
    for convention in TimeConvention:
        assert factor(replace(HEADER, decay_correction="ADMIN"), convention) == pytest.approx(2.5e-4)


def test_what_was_not_corrected_decays_slice_by_slice():
    raw = replace(HEADER, decay_correction="NONE", corrected_image=("ATTN",), actual_frame_duration_ms=2.0)
    slices = [replace(raw, acquisition_time="115000"), replace(raw, acquisition_time="134000")]
    assert suv_factors(slices, QIBA).values == pytest.approx([5e-4, 1e-3], rel=1e-6)
    dated = [replace(header, injection_datetime="20200101081000") for header in slices]  # a half-life earlier
    assert suv_factors(dated, QIBA).values == pytest.approx([1e-3, 2e-3], rel=1e-6)


def test_the_widest_that_is_believed():
    assert factor(replace(HEADER, injection_time="115000")) == pytest.approx(2.5e-4)  # injected as the scan began
    assert factor(replace(HEADER, half_life_s=660.0)) == pytest.approx(2.5e-4 * 2**10)
    assert factor(replace(HEADER, dose_bq=1e5)) == pytest.approx(5e-4 * 2800)
    for weight_kg in WEIGHT_KG:
        assert factor(replace(HEADER, weight_kg=weight_kg)) == pytest.approx(5e-4 * weight_kg / 70)


def test_units_of_philips_and_suv():
    assert factor(replace(HEADER, units="GML")) == 1.0
    assert factor(replace(HEADER, units="CNTS", philips_suv_factor=0.000728)) == 0.000728
    assert factor(replace(HEADER, units="CNTS", philips_activity_factor=2.0)) == pytest.approx(1e-3)
    assert factor(OF_PHILIPS) == pytest.approx(2.5e-4)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("weight_kg", None, "PatientWeight is missing"),
        ("weight_kg", 0.0, "PatientWeight is 0"),
        ("weight_kg", 70000.0, "PatientWeight is 70000; expected kg"),
        ("dose_bq", None, "RadionuclideTotalDose is missing"),
        ("dose_bq", 280.0, "RadionuclideTotalDose is 280; expected Bq"),
        ("half_life_s", None, "RadionuclideHalfLife is missing"),
        ("injection_time", None, "RadiopharmaceuticalStartTime is missing"),
        ("injection_time", "noon", "RadiopharmaceuticalStartTime is 'noon'"),
        ("injection_time", "130000", "RadiopharmaceuticalStartTime is 130000, 1.2 h after the scan"),
        ("series_time", None, "SeriesTime is missing"),
        ("series_date", "20201301", "SeriesDate is '20201301'"),
        ("acquisition_time", None, "AcquisitionTime is missing"),
        ("decay_correction", None, "DecayCorrection is missing"),
        ("corrected_image", ("ATTN",), "CorrectedImage is ATTN"),
        ("units", None, "Units are missing"),
        ("units", "PROPCPS", "Units are PROPCPS"),
        ("half_life_s", 0.0, "RadionuclideHalfLife is 0; expected a positive number"),
        ("half_life_s", math.inf, "RadionuclideHalfLife is inf; expected a positive number"),
        ("acquisition_date", "20201301", "AcquisitionDate is '20201301'"),
        ("injection_datetime", "soon", "RadiopharmaceuticalStartDateTime is 'soon'; expected a date"),
        ("injection_datetime", "20200101noon", "RadiopharmaceuticalStartDateTime is 'noon'; expected HHMMSS"),
        (
            "injection_datetime",
            "20191222115000",
            "RadiopharmaceuticalStartDateTime is 20191222115000, 240.0 h before the scan at 2020-01-01 11:50:00; "
            "expected a few hours before it: correct the header; "
            "--time-convention challenge looks at times of day alone",
        ),
        ("decay_correction", "SOME", "DecayCorrection is SOME; expected START, ADMIN or NONE"),
        (
            "corrected_image",
            ("ATTN", "SCAT"),
            "DecayCorrection is START, and CorrectedImage is ATTN, SCAT; DECY belongs to START and ADMIN alone: "
            "export the series again",
        ),
        ("corrected_image", (), "DecayCorrection is START, and CorrectedImage is missing; DECY belongs"),
        (
            "units",
            "CNTS",
            "the PET's Units are CNTS, and neither Philips' SUV factor (7053,1000) nor its activity factor (7053,1009) "
            "is there: export it with private fields, or in BQML",
        ),
    ],
)
def test_what_is_missing_or_impossible_is_refused_by_name(field: str, value: object, sentence: str):
    with pytest.raises(InputError) as refused:
        factor(replace(HEADER, **{field: value}))
    assert sentence in str(refused.value)


def test_a_refusal_says_what_helps():
    """Word for word where a remedy depends on the convention, or where slices differ from each other."""
    ge = replace(MADE_LATER, ge_scan_datetime="soon")
    with pytest.raises(InputError, match=r"^GEScanDateTime \(0009,100D\) is 'soon'; expected a date, YYYYMMDD"):
        factor(ge)
    with pytest.raises(InputError, match=r"12:01:00; expected a few hours before it: correct the header$"):
        factor(replace(HEADER, injection_time="130000"), CHALLENGE)
    apart = [replace(NOT_CORRECTED, acquisition_time=time) for time in ("080000", "100100")]
    with pytest.raises(InputError, match=r"is 100000\.00, 2\.0 h after the scan at 2020-01-01 08:00:59"):
        suv_factors(apart, QIBA)
    with pytest.raises(InputError, match=r"is 114959\.4, 0\.0 h before the scan at 2020-01-01 11:50:00"):  # 0.6 s
        factor(replace(HEADER, injection_time="114959.4", half_life_s=0.05))
    with pytest.raises(InputError, match="expected BW, LBMJANMA, BSA: use the series in BQML"):
        factor(replace(HEADER, units="GML", suv_type="IBW"))
    with pytest.raises(InputError) as refused:
        suv_factors([replace(HEADER, dose_bq=dose) for dose in (1e8, 2e8, 3e8)], QIBA)
    assert str(refused.value) == (
        "RadionuclideTotalDose differs between the PET's slices (100000000.0 and 200000000.0); expected one series of "
        "one injection: take the other files out of the folder"
    )


def test_lean_body_suv_and_two_injections_are_refused():
    with pytest.raises(InputError, match="SUVType is LBM"):
        factor(replace(HEADER, units="GML", suv_type="LBM"))
    with pytest.raises(InputError, match="RadionuclideTotalDose differs"):
        suv_factors([HEADER, replace(HEADER, dose_bq=1e8)], QIBA)


@pytest.mark.parametrize(
    ("units", "kind", "scale"),
    [
        ("GML", None, 1.0),
        ("GML", "BW", 1.0),
        ("GML", "LBMJANMA", 70 / 55.852),  # lean mass of 70 kg and 1.75 m, see test_measure
        ("CM2ML", "BSA", 70000 / 18481),  # g over cm2
        ("CM2ML", None, 70000 / 18481),
    ],
)
def test_suv_by_lean_mass_or_surface_is_turned_into_that_by_weight(units: str, kind: str | None, scale: float):
    header = replace(HEADER, units=units, suv_type=kind, height_m=1.75, sex="M")
    assert factor(header) == pytest.approx(scale, rel=1e-4)
    if scale != 1:
        with pytest.raises(InputError, match="PatientSize is missing"):
            factor(replace(header, height_m=None))


def test_a_number_that_is_none_is_refused():
    with pytest.raises(InputError, match="PatientWeight is 'heavy'"):
        PetHeader.from_keywords({"PatientWeight": "heavy"})


@pytest.mark.parametrize(("value", "expected"), [("DECY", ("DECY",)), (["DECY", "ATTN"], ("DECY", "ATTN")), (None, ())])
def test_one_correction_or_several_are_a_tuple(value: object, expected: tuple[str, ...]):
    assert PetHeader.from_keywords({"CorrectedImage": value}).corrected_image == expected


def test_blanks_are_nothing():
    assert PetHeader.from_keywords({"PatientSex": "  ", "PatientWeight": " ", "SeriesTime": " 12 "}) == PetHeader(
        series_time="12"
    )
