"""From a PET header to the factor that turns its values into SUV (body weight); pure, knows no DICOM library.

SUVbw = activity in Bq/ml * weight in g / (injected dose in Bq * 2^(-delay / half-life)), the delay being the time from
injection to the moment that the activity is corrected to. Two conventions say which moment that is, see
`TimeConvention`. The vendor-neutral rules are those of the Quantitative Imaging Biomarkers Alliance (QIBA, "SUV
calculation from DICOM", FDG-PET/CT profile, appendix G) and DICOM PS3.3 C.8.9.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, NoReturn

from l2snet.errors import InputError
from l2snet.subject import WEIGHT_KG, Subject, SuvType

# Ten half-lives leave a thousandth of the dose: nobody scans later, so the dates must be wrong.
MAX_DELAY_HALF_LIVES = 10
# A dose below 0.1 MBq gives no image; such a number is in MBq or mCi.
MIN_DOSE_BQ = 1e5
# Where a time has no date, any day serves.
ANY_DAY = datetime(2000, 1, 1, tzinfo=UTC)

# Units of SUV, and what it is normalised by where SUVType does not say; the types that are turned into body weight.
STATED_SUV = {"GML": "BW", "CM2ML": "BSA"}
SUV_TYPES = {"BW": SuvType.bw, "LBMJANMA": SuvType.lbm, "BSA": SuvType.bsa}

TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d{0,6})?)?")
DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


class TimeConvention(StrEnum):
    """The moment that a PET with DecayCorrection START is taken to be corrected to.

    `challenge`: AcquisitionTime of the slice whose file comes first by name, times of day alone. This is what the
    script that made the public autoPET data does (tcia_dicom_to_nifti.py; it takes whichever file its disk lists first,
    and has the wrong sign over midnight).
    `qiba`: SeriesTime, or the start of the acquisition where the series was made after it; with dates.
    """

    challenge = "challenge"
    qiba = "qiba"


@dataclass(frozen=True)
class PetHeader:
    """What SUV needs of one PET slice; None (or empty) where the header has nothing. Dates and times as DICOM text."""

    units: str | None = None
    suv_type: str | None = None
    corrected_image: tuple[str, ...] = ()
    decay_correction: str | None = None
    series_date: str | None = None
    series_time: str | None = None
    acquisition_date: str | None = None
    acquisition_time: str | None = None
    utc_offset: str | None = None
    frame_reference_time_ms: float | None = None
    actual_frame_duration_ms: float | None = None
    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    injection_time: str | None = None
    injection_datetime: str | None = None
    ge_scan_datetime: str | None = None
    philips_suv_factor: float | None = None
    philips_activity_factor: float | None = None

    @classmethod
    def from_keywords(cls, values: Mapping[str, Any]) -> PetHeader:
        """A header from DICOM keywords, the injection's among them, and the private fields of `KEYWORDS`.

        Raises
        ------
        InputError : a number is none.
        """
        return cls(**{name: _value(keyword, values.get(keyword)) for name, keyword in KEYWORDS.items()})

    @property
    def subject(self) -> Subject:
        """The patient's body."""
        return Subject(self.weight_kg, self.height_m, self.sex)


# Attribute of PetHeader to DICOM keyword; the last three are private fields, named here.
KEYWORDS = {
    "units": "Units",
    "suv_type": "SUVType",
    "corrected_image": "CorrectedImage",
    "decay_correction": "DecayCorrection",
    "series_date": "SeriesDate",
    "series_time": "SeriesTime",
    "acquisition_date": "AcquisitionDate",
    "acquisition_time": "AcquisitionTime",
    "utc_offset": "TimezoneOffsetFromUTC",
    "frame_reference_time_ms": "FrameReferenceTime",
    "actual_frame_duration_ms": "ActualFrameDuration",
    "weight_kg": "PatientWeight",
    "height_m": "PatientSize",
    "sex": "PatientSex",
    "dose_bq": "RadionuclideTotalDose",
    "half_life_s": "RadionuclideHalfLife",
    "injection_time": "RadiopharmaceuticalStartTime",
    "injection_datetime": "RadiopharmaceuticalStartDateTime",
    "ge_scan_datetime": "GEScanDateTime",
    "philips_suv_factor": "PhilipsSUVScaleFactor",
    "philips_activity_factor": "PhilipsActivityConcentrationScaleFactor",
}
_NUMBERS = {name for name in KEYWORDS if name.endswith(("_ms", "_kg", "_m", "_bq", "_s", "_factor"))}
_NUMBER_KEYWORDS = {KEYWORDS[name] for name in _NUMBERS}
# Fields of the injection and the series: they cannot differ between the slices of one PET.
_OF_THE_SERIES = (
    "units",
    "decay_correction",
    "series_date",
    "series_time",
    "weight_kg",
    "dose_bq",
    "half_life_s",
    "injection_time",
    "injection_datetime",
)


@dataclass(frozen=True)
class SuvFactors:
    """`values[i]` times the rescaled value of slice i is SUV; `rule` says where the factors came from."""

    values: tuple[float, ...]
    rule: str


def suv_factors(slices: Sequence[PetHeader], convention: TimeConvention) -> SuvFactors:
    """The SUVbw factor of every slice of one PET series.

    Parameters
    ----------
    slices : headers of all slices, in order of their files' names.

    Raises
    ------
    InputError : a field is missing, impossible, or differs between slices; the sentence names it.
    """
    first = slices[0]
    for name in _OF_THE_SERIES:
        found = {getattr(header, name) for header in slices}
        if len(found) > 1:
            listed = " and ".join(sorted(map(str, found))[:2])
            raise InputError(
                f"{KEYWORDS[name]} differs between the PET's slices ({listed}); expected one series of one injection: "
                "take the other files out of the folder"
            )
    if first.units in STATED_SUV:
        return _stated_factors(slices)
    if first.units == "CNTS":
        return _philips_factors(slices, convention)
    if first.units != "BQML":
        raise InputError(f"the PET's Units are {first.units or 'missing'}; expected BQML, GML, CM2ML or Philips' CNTS")
    return _activity_factors(slices, convention)


def _stated_factors(slices: Sequence[PetHeader]) -> SuvFactors:
    """Of a PET that is SUV already, by body weight or by something else of the body."""
    first = slices[0]
    kind = first.suv_type or STATED_SUV[str(first.units)]
    if kind not in SUV_TYPES:
        raise InputError(
            f"the PET's SUVType is {kind}; expected {', '.join(SUV_TYPES)}: use the series in BQML instead"
        )
    factor = 1.0 / first.subject.suv_scale(SUV_TYPES[kind])
    return SuvFactors((factor,) * len(slices), f"units {first.units}: SUV ({kind}) already")


def _philips_factors(slices: Sequence[PetHeader], convention: TimeConvention) -> SuvFactors:
    suv = tuple(header.philips_suv_factor or 0.0 for header in slices)
    if all(value > 0 for value in suv):
        return SuvFactors(suv, "Philips SUV scale factor (7053,1000)")
    activity = tuple(header.philips_activity_factor or 0.0 for header in slices)
    if not all(value > 0 for value in activity):
        raise InputError(
            "the PET's Units are CNTS, and neither Philips' SUV factor (7053,1000) nor its activity factor (7053,1009) "
            "is there: export it with private fields, or in BQML"
        )
    factors = _activity_factors(slices, convention)
    values = tuple(a * f for a, f in zip(activity, factors.values, strict=True))
    return SuvFactors(values, f"Philips activity factor (7053,1009); {factors.rule}")


def _activity_factors(slices: Sequence[PetHeader], convention: TimeConvention) -> SuvFactors:
    """Factors of a PET in Bq/ml."""
    first = slices[0]
    weight_kg, dose_bq = _number(first, "weight_kg"), _number(first, "dose_bq")
    half_life_s = _number(first, "half_life_s")
    if not WEIGHT_KG[0] <= weight_kg <= WEIGHT_KG[1]:
        raise InputError(f"PatientWeight is {weight_kg:g}; expected kg: correct the header, or leave the study out")
    if dose_bq < MIN_DOSE_BQ:
        raise InputError(
            f"RadionuclideTotalDose is {dose_bq:g}; expected Bq: correct the header, or leave the study out"
        )
    delays_s, rule = _delays_s(slices, convention, half_life_s)
    full = 1000.0 * weight_kg / dose_bq
    return SuvFactors(tuple(full * 2.0 ** (delay / half_life_s) for delay in delays_s), rule)


def _delays_s(
    slices: Sequence[PetHeader], convention: TimeConvention, half_life_s: float
) -> tuple[tuple[float, ...], str]:
    """Seconds of decay between injection and the moment each slice is corrected to, and the rule's name."""
    first = slices[0]
    correction = _text(first, "decay_correction")
    if correction not in ("START", "ADMIN", "NONE"):
        raise InputError(f"DecayCorrection is {correction}; expected START, ADMIN or NONE")
    if ("DECY" in first.corrected_image) == (correction == "NONE"):
        raise InputError(
            f"DecayCorrection is {correction}, and CorrectedImage is {', '.join(first.corrected_image) or 'missing'}; "
            "DECY belongs to START and ADMIN alone: export the series again"
        )
    if correction == "ADMIN":
        return (0.0,) * len(slices), "DecayCorrection ADMIN: no decay"
    if correction == "NONE":
        moments = [_mean_of_frame(header, half_life_s) for header in slices]
        dated, rule = True, "DecayCorrection NONE: the mean of each slice's frame"
    elif convention is TimeConvention.challenge:
        moments = [ANY_DAY + _since_midnight(first, "acquisition_time")] * len(slices)
        dated, rule = False, "AcquisitionTime of the first file"
    else:
        moment, rule = _start(slices, half_life_s)
        moments, dated = [moment] * len(slices), True
    injection = _injection(first, min(moments), dated)
    delays = tuple((moment - injection).total_seconds() for moment in moments)
    if min(delays) < 0 or max(delays) > MAX_DELAY_HALF_LIVES * half_life_s:
        field = "injection_datetime" if dated and first.injection_datetime else "injection_time"
        remedy = "; --time-convention challenge looks at times of day alone" if dated else ""
        raise InputError(
            f"{KEYWORDS[field]} is {getattr(first, field)}, {_ago(max(delays, key=abs))} the scan at "
            f"{moments[0]:%Y-%m-%d %H:%M:%S}; expected a few hours before it: correct the header{remedy}"
        )
    return delays, rule


def _ago(delay_s: float) -> str:
    return f"{abs(delay_s) / 3600:.1f} h {'before' if delay_s >= 0 else 'after'}"


def _start(slices: Sequence[PetHeader], half_life_s: float) -> tuple[datetime, str]:
    """The moment a series with DecayCorrection START is corrected to, by QIBA.

    The series' own time, unless the series was made after its first slice was acquired. Then GE's private field, or
    the frame's mean (which FrameReferenceTime places relative to the start), or the earliest AcquisitionTime, which is
    what the DICOM standard means by START.
    """
    series = _series_moment(slices[0])
    earliest = min(slices, key=_acquired)
    if series <= _acquired(earliest):
        return series, "SeriesTime"
    if earliest.ge_scan_datetime:
        scan = local_moment(earliest.ge_scan_datetime, "GEScanDateTime (0009,100D)", earliest.utc_offset)
        return scan, "GE scan time (0009,100D)"
    if (earliest.frame_reference_time_ms or 0) > 0 and (earliest.actual_frame_duration_ms or 0) > 0:
        reference = timedelta(milliseconds=_number(earliest, "frame_reference_time_ms"))
        return _mean_of_frame(earliest, half_life_s) - reference, "FrameReferenceTime and ActualFrameDuration"
    return _acquired(earliest), "earliest AcquisitionTime"


def _mean_of_frame(header: PetHeader, half_life_s: float) -> datetime:
    """When, within its frame, a slice's activity had its mean over the frame (QIBA; DICOM PS3.3 C.8.9.1.1.9)."""
    decay = math.log(2) / half_life_s * _number(header, "actual_frame_duration_ms") / 1000.0
    seconds = half_life_s / math.log(2) * math.log(decay / -math.expm1(-decay))
    return _acquired(header) + timedelta(seconds=seconds)


def _injection(header: PetHeader, scan: datetime, dated: bool) -> datetime:
    """When the dose was given; a time without a date is put on the day that brings it nearest to the scan."""
    if header.injection_datetime:
        moment = local_moment(header.injection_datetime, KEYWORDS["injection_datetime"], header.utc_offset)
        if dated:
            return moment
        if not header.injection_time:
            return _nearest(moment - moment.replace(hour=0, minute=0, second=0, microsecond=0), scan)
    return _nearest(_since_midnight(header, "injection_time"), scan)


def _series_moment(header: PetHeader) -> datetime:
    date = "series_date" if header.series_date or not header.acquisition_date else "acquisition_date"
    return _day(_text(header, date), KEYWORDS[date]) + _since_midnight(header, "series_time")


def _acquired(header: PetHeader) -> datetime:
    time = _since_midnight(header, "acquisition_time")
    if header.acquisition_date:
        return _day(header.acquisition_date, KEYWORDS["acquisition_date"]) + time
    return _nearest(time, _series_moment(header))


def _nearest(time: timedelta, moment: datetime) -> datetime:
    """That time of day, on the day that brings it within twelve hours of `moment`."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    days = (midnight + timedelta(days=n) + time for n in (-1, 0, 1))
    return min(days, key=lambda candidate: abs(candidate - moment))


def local_moment(text: str, field: str, utc_offset: str | None) -> datetime:
    """A DICOM date-time as local time: a UTC offset of its own is turned into the header's, if that has one.

    Raises
    ------
    InputError : it is none; the sentence names the field.
    """
    day, rest = text.strip()[:8], text.strip()[8:]
    offset = OFFSET.search(rest)
    moment = _day(day, field) + _time(rest[: offset.start()] if offset else rest, field)
    local = OFFSET.fullmatch(utc_offset.strip()) if utc_offset else None
    if offset is None or local is None:
        return moment
    return moment.replace(tzinfo=_zone(offset)).astimezone(_zone(local)).replace(tzinfo=UTC)


def _zone(offset: re.Match[str]) -> timezone:
    sign = -1 if offset.group(1) == "-" else 1
    return timezone(sign * timedelta(hours=int(offset.group(2)), minutes=int(offset.group(3))))


def _since_midnight(header: PetHeader, name: str) -> timedelta:
    return _time(_text(header, name), KEYWORDS[name])


def _time(text: str, field: str) -> timedelta:
    found = TIME.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{field} is {text!r}; expected HHMMSS: correct the header")
    hours, minutes, seconds = found.groups()
    return timedelta(hours=int(hours), minutes=int(minutes or 0), seconds=float(seconds or 0))


def _day(text: str, field: str) -> datetime:
    found = DATE.fullmatch(text.strip())
    try:
        if found is not None:
            return datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:  # no such day
        pass
    raise InputError(f"{field} is {text!r}; expected a date, YYYYMMDD: correct the header")


def _number(header: PetHeader, name: str) -> float:
    value = getattr(header, name)
    if value is None:
        _missing(name)
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{KEYWORDS[name]} is {value:g}; expected a positive number: correct the header")
    return float(value)


def _text(header: PetHeader, name: str) -> str:
    value = getattr(header, name)
    if not value:
        _missing(name)
    return str(value)


def _missing(name: str) -> NoReturn:
    raise InputError(
        f"{KEYWORDS[name]} is missing in the PET's header; SUV needs it: enter it there, or leave the study out"
    )


def _value(keyword: str, value: Any) -> Any:
    """A header's value as PetHeader holds it: None for what is empty, texts without blanks, numbers as float."""
    if keyword == "CorrectedImage":
        return tuple([value] if isinstance(value, str) else value or ())
    if value is None or str(value).strip() == "":
        return None
    if keyword not in _NUMBER_KEYWORDS:
        return str(value).strip()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{keyword} is {value!r}; expected a number: correct the header") from error
