"""The report without a browser: its views, what the page holds, and that it escapes whatever it shows."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reports import HOSTILE, MANIFEST, at_thresholds, phantom, phantom_case

from l2snet.case import Case
from l2snet.cli import main
from l2snet.errors import InputError, OutputError
from l2snet.evaluation.metrics import measure
from l2snet.files import write_text
from l2snet.measure.table import LESION_COLUMNS
from l2snet.pipeline import Segmentation
from l2snet.predict import MANIFEST as MANIFEST_FILE
from l2snet.predict import REPORT, Wanted, run_case
from l2snet.report.casepage import Options, hottest_ras_mm, lesion_slices, report
from l2snet.report.cohort import cohort_page, plot, read_summary, write_cohort
from l2snet.report.files import write_files
from l2snet.report.findings import Findings, find, read_findings
from l2snet.report.manifest import read_manifest
from l2snet.report.origin import Origin, origin_of
from l2snet.report.page import NIIVUE, niivue
from l2snet.report.payload import candidates, levels_of, payload, rule_of, to_levels
from l2snet.report.pictures import MAX_SUV, pixels
from l2snet.report.rotation import ANGLES, LETTER_PIXELS, animated, ends, turning_frames
from l2snet.report.shades import LESION_COLOURS, rgb
from l2snet.report.sides import changed, comparison_layers, earlier_part, earlier_warnings, padded
from l2snet.report.strings import DIGITS, STRINGS, shown
from l2snet.report.views import CORONAL, LESION, SAGITTAL, axial, lines_around, projection, slice_through, warm_box
from l2snet.results import Measuring
from l2snet.sources import challenge
from l2snet.sources.inputs import Reading
from l2snet.sources.suv import TimeConvention
from l2snet.subject import Subject
from l2snet.volume import write_volume


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, texts of scripts, the text that is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text, self.inside, self.styled = "", False, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside, self.styled = tag == "script", tag == "style"
        if self.inside:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.styled = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif not self.styled:
            self.text += data

    def script(self, name: str) -> dict:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == name))


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report(phantom(), Options()))


def test_a_projection_shows_the_highest_and_outlines_the_lesion_where_it_is() -> None:
    findings = phantom()
    box = (slice(None),) * 3
    coronal = projection(findings.suv, {LESION: findings.labels}, CORONAL, box)
    sagittal = projection(findings.suv, {LESION: findings.labels}, SAGITTAL, box)
    np.testing.assert_array_equal(coronal.suv, findings.suv.array.max(axis=1)[::-1])
    np.testing.assert_array_equal(sagittal.suv, findings.suv.array.max(axis=2)[::-1])
    for view, across in (coronal, 2), (sagittal, 1):
        assert view.size_mm == (40 * 3.0, findings.suv.geometry.size[across] * 4.0)
        (mark,) = [mark for mark in view.marks if mark.number == 1]
        middle = np.concatenate(mark.lines).min(axis=0) / 2 + np.concatenate(mark.lines).max(axis=0) / 2
        where = np.argwhere(findings.labels == 1)
        centre = (where.min(axis=0) + where.max(axis=0) + 1) / 2
        np.testing.assert_allclose(middle, (centre[across] * 4.0, (40 - centre[0]) * 3.0), atol=1e-6)


def test_the_line_around_a_square_of_pixels_runs_along_its_edge() -> None:
    (line,) = lines_around(np.pad(np.ones((4, 6), bool), 2), (3.0, 2.0))
    np.testing.assert_allclose(line.min(axis=0), (2 * 2.0, 2 * 3.0))
    np.testing.assert_allclose(line.max(axis=0), (8 * 2.0, 6 * 3.0))
    assert lines_around(np.zeros((3, 3), bool), (1.0, 1.0)) == ()


def test_an_axial_view_is_the_slice_with_most_of_the_lesion() -> None:
    findings = phantom()
    view = axial(findings.suv, findings.ct, findings.labels, 1, findings.places[0], (slice(None),) * 3)
    most = int((findings.labels == 1).sum(axis=(1, 2)).argmax())
    np.testing.assert_array_equal(view.suv, findings.suv.array[most])
    assert view.ct is not None


def test_of_slices_with_as_much_of_a_lesion_the_hottest_is_shown() -> None:
    labels, suv = np.zeros((8, 4, 4), np.uint8), np.ones((8, 4, 4), np.float32)
    labels[2:6, 1:3, 1:3] = 2
    labels[0] = 1
    suv[4, 2, 2], suv[3, 0, 0] = 5.0, 9.0
    assert slice_through(suv, labels, 2, (slice(2, 6), slice(1, 3), slice(1, 3))) == 4


def pixels_of(uri: str | None) -> np.ndarray:
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("L"))


@pytest.mark.parametrize("with_ct", [True, False])
def test_slices_are_drawn_as_their_files_are(with_ct: bool) -> None:
    findings = phantom(with_ct=with_ct)
    page = Page(report(findings, Options(viewer=False)))
    views = [attributes for tag, attributes in page.elements if tag == "svg" and "view" in (attributes["class"] or "")]
    slices = [view for view in views if "axial slice" in (view["aria-label"] or "")]
    assert len(slices) == findings.burden.lesions
    assert {view["class"] for view in slices} == {"view fused" if with_ct else "view"}
    images = [attributes for tag, attributes in page.elements if tag == "image"][2:]  # after the projections
    number, view = next(lesion_slices(findings))
    assert number == 1
    shown = pixels_of(images[0]["href"]).astype(float)
    drawn = np.asarray(Image.fromarray(pixels(view, MAX_SUV)).convert("L")).astype(float)
    assert "filter" not in images[0]
    assert np.abs(shown - drawn).mean() < 3
    if not with_ct:  # air is white, what is hot is dark
        assert shown[:3, :3].min() > 245
        assert shown.min() < 60


def test_the_box_holds_the_body_and_every_lesion() -> None:
    suv = np.zeros((20, 20, 20), np.float32)
    suv[5:15, 6:14, 7:13] = 1.0
    suv[0, 0, 0] = 1.0  # noise
    assert warm_box(suv) == (slice(5, 15), slice(6, 14), slice(7, 13))
    labels = np.zeros(suv.shape, np.uint8)
    labels[19, 1, 10] = 1
    assert warm_box(suv, labels) == (slice(5, 20), slice(1, 14), slice(7, 13))


def test_the_rotation_goes_around_once_and_shows_lesions_in_their_colour() -> None:
    findings = phantom()
    frames = turning_frames(findings.suv, findings.labels, findings.box, 10.0)
    assert len(frames) == ANGLES == 36
    rows = np.abs(np.arange(len(frames[0])) - len(frames[0]) / 2) > LETTER_PIXELS  # without letters
    np.testing.assert_array_equal(frames[18][rows], frames[0][rows][:, ::-1])
    assert not np.array_equal(frames[9], frames[0])
    for number in (1, 2):
        assert (frames[0] == rgb(LESION_COLOURS[number - 1])).all(axis=-1).sum() > 5
    # The upper lesion is on the patient's right: on the left from before, on the right from behind.
    for frame, side in (frames[0], 0), (frames[18], 1):
        columns = np.argwhere((frame == rgb(LESION_COLOURS[0])).all(axis=-1))[:, 1]
        assert (columns.mean() > frame.shape[1] / 2) == side
    with Image.open(io.BytesIO(animated(frames))) as picture:
        assert picture.n_frames == ANGLES
        assert picture.is_animated


def test_a_frame_says_what_lies_at_its_edges() -> None:
    assert [ends(at) for at in (0, 9, 18, 27)] == [("R", "L"), ("A", "P"), ("L", "R"), ("P", "A")]
    assert [ends(at) for at in (4, 5, 14)] == [("RA", "LP"), ("RA", "LP"), ("LA", "RP")]
    findings = phantom()
    frame = turning_frames(findings.suv, findings.labels, findings.box, 10.0)[0]
    middle = len(frame) // 2
    letters = frame[middle - LETTER_PIXELS // 2 : middle + LETTER_PIXELS // 2, 3:12]
    assert (letters < 100).all(axis=-1).any()


def test_levels_are_close_to_the_values() -> None:
    values = np.concatenate([np.linspace(-1, 5, 200), np.geomspace(5, 80, 200)]).astype(np.float32)
    levels = levels_of(80.0)
    assert len(levels) == 256
    found = levels[to_levels(values, levels)]
    assert np.abs(found - np.clip(values, 0, None))[values <= 5].max() <= 0.02501
    assert (np.abs(found - values) / values)[values > 5].max() < 0.01


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), kind)


def test_the_viewer_gets_every_voxel_that_a_threshold_could_bring_in() -> None:
    findings = phantom()
    told, packed = payload(findings)
    nx, ny, nz = told["size"]
    index = np.cumsum(unpacked(packed["index"], "<u4"))
    probability, on_cue = unpacked(packed["probability"], "<f4"), unpacked(packed["on_cue"], "u1")
    for on, off in ((0.1, 0.5), (0.3, 0.9), (0.05, 0.05)):
        mask = np.zeros(nx * ny * nz, bool)
        mask[index] = probability > np.where(on_cue, np.float32(on), np.float32(off))
        expected = at_thresholds(findings, on, off).labels[findings.box] > 0
        np.testing.assert_array_equal(mask.reshape(nz, ny, nx), expected)
    np.testing.assert_array_equal(unpacked(packed["suv"], "<f4"), findings.suv.array[findings.box].ravel()[index])
    labels = unpacked(packed["labels"], "<u4")[index]
    peaks = [unpacked(packed["peak"], "<f4")[labels == n].max() for n in range(1, labels.max() + 1)]
    np.testing.assert_allclose(peaks, [lesion.suv_peak for lesion in findings.measurement.lesions], rtol=1e-6)


def test_the_affine_and_the_jump_lead_to_the_hottest_voxel() -> None:
    findings = phantom()
    told, _ = payload(findings)
    for number, at in enumerate(hottest_ras_mm(findings), start=1):
        x, y, z, _ = np.rint(np.linalg.solve(np.array(told["affine"]), [*at, 1])).astype(int)
        suv, labels = findings.suv.array[findings.box], findings.labels[findings.box]
        assert labels[z, y, x] == number
        assert suv[z, y, x] == suv[labels == number].max()


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (1023.25, "tlg", "1023.3"),
        (-2.25, "tlg", "-2.3"),
        (0.125, "volume_ml", "0.13"),
        (0.124999, "volume_ml", "0.12"),
        (2.5, "lesions", "3"),
        (1e20, "tlg", "100000000000000000000.0"),
        (None, "tlg", STRINGS["undefined"]),
        (float("nan"), "tlg", STRINGS["undefined"]),
    ],
)
def test_halves_are_rounded_as_the_page_rounds_them(value: float | None, key: str, text: str) -> None:
    assert shown(value, key) == text


def test_only_a_rule_of_thresholds_gets_a_slider() -> None:
    findings = phantom()
    rule = rule_of(findings)
    assert rule is not None
    assert (rule.on, rule.off, rule.cue) == (0.1, 0.5, 0.5)
    assert rule_of(phantom(fusion="cued")) == replace(rule, cued=True)
    before = {key: value for key, value in MANIFEST.items() if key != "least_overlap"}
    assert rule_of(replace(findings, manifest=before)) == replace(rule, least_overlap=0.0) != rule
    assert rule_of(replace(findings, manifest={**findings.manifest, "fusion": "components"})) is None
    assert rule_of(replace(findings, probability=None)) is None
    assert findings.probability is not None
    mask = findings.probability.array > np.float32(0.4)
    alone = rule_of(find(findings.case, mask, findings.probability, manifest={"thresholds": {"lesion": 0.4}}))
    assert alone is not None
    assert (alone.off, alone.on) == (0.4, None)
    labels = findings.labels[findings.box]
    assert "on_cue" not in candidates(findings.suv, findings.box, np.zeros(labels.shape), None, labels, alone)


def test_the_page_tells_the_programs_own_numbers(page: Page) -> None:
    findings = phantom()
    burden = findings.burden
    for key in ("tmtv_ml", "tlg", "suv_max", "dmax_mm"):
        assert shown(getattr(burden, key), key) in page.text
    data = page.script("l2snet-data")
    assert [row["volume_ml"] for row in data["rows"]] == pytest.approx(
        [n.volume_ml for n in findings.measurement.lesions]
    )
    assert data["totals"]["tmtv_ml"] == pytest.approx(burden.tmtv_ml, rel=1e-5)
    for text in (
        "Not a medical device",
        "a1" * 32,
        "l2snet 9.8.7",
        "on_cue 0.1",
        "the PET was resampled",
        "segment 12.5",
    ):
        assert text in page.text
    assert set(data["digits"]) == set(DIGITS)


def test_the_page_asks_no_host_and_runs_only_its_own_scripts(page: Page) -> None:
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data-turning", "data-still"):
            assert re.match(r"data:|#", attributes.get(name) or "#")
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(run) == 4
    for text in (*run, niivue()[0]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


@pytest.mark.parametrize("with_ct", [True, False])
def test_a_viewer_needs_neither_ct_nor_maps(with_ct: bool) -> None:
    plain = phantom(with_ct=with_ct)
    bare = Page(report(find(plain.case, plain.measurement.mask.array), Options()))
    ids = {attributes.get("id") for _, attributes in bare.elements}
    assert ("ct-window" in ids) == with_ct
    assert "canvas" in ids
    assert not ids & {"threshold-off", "show-probability", "show-cue"}


def test_prints_say_the_scale_of_every_picture() -> None:
    text = Page(report(phantom(with_ct=False), Options(max_suv=7.0, viewer=False))).text
    for part in ("inverse grey", "SUV 0 to 7.", "rotating, SUV 0 to 7", "PET in inverse grey, SUV 0 to 7."):
        assert part in text


@pytest.mark.parametrize(("suv_type", "unit"), [("bw", "g"), ("lbm", "g"), ("bsa", "cm²")])
def test_glycolysis_has_the_unit_of_its_suv(suv_type: str, unit: str, tmp_path: Path) -> None:
    plain = phantom()
    manifest = {**MANIFEST, "measured": {"suv_type": suv_type}}
    subject = Subject(70.0, 1.75, "F")
    findings = find(plain.case, plain.measurement.mask.array, plain.probability, plain.cue, manifest, subject)
    earlier = replace(findings, case=replace(findings.case, name="earlier"))
    text = re.sub(r"\s+", " ", Page(report(findings, Options(viewer=False, earlier=earlier))).text)
    tlg = shown(findings.burden.tlg, "tlg")
    assert f"TLG{tlg} {unit} " in text
    assert text.count(f"TLG {unit}") == 2  # heads of the table and of the change
    write_files(findings, tmp_path / REPORT, Options(viewer=False), pictures=False)
    assert f"TLG {unit}" in Page(write_cohort(tmp_path).read_text("utf-8")).text


def test_the_change_is_that_of_the_totals() -> None:
    now, before = phantom(), at_thresholds(phantom("earlier"), 0.3, 0.7)
    page = Page(report(now, Options(viewer=False, earlier=before)))
    assert before.burden.tmtv_ml != now.burden.tmtv_ml
    expected = changed(before.burden.tmtv_ml, now.burden.tmtv_ml, "tmtv_ml")
    assert expected[0] in "+-"
    assert expected in page.text
    other = replace(before, measurement=replace(before.measurement, suv_type="bsa"))
    part = earlier_part(other, now, 10.0, ("tlg", "tmtv_ml"))
    assert part["change"] == {"tlg": STRINGS["undefined"], "tmtv_ml": expected}
    assert part["before"]["tlg"] is None
    assert part["before"]["tmtv_ml"] == pytest.approx(before.burden.tmtv_ml, rel=1e-5)


KNOWN = Origin("ID-17", "19500101", date(2020, 5, 6))


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        (replace(KNOWN, taken=date(2020, 1, 2)), KNOWN, []),
        (replace(KNOWN, taken=date(2020, 1, 2), born=None), KNOWN, []),
        (replace(KNOWN, taken=date(2020, 1, 2), patient="ID-18"), KNOWN, ["other_patient"]),
        (replace(KNOWN, taken=date(2020, 1, 2), born="19500102"), KNOWN, ["other_patient"]),
        (replace(KNOWN, taken=date(2020, 5, 6)), KNOWN, ["order"]),
        (replace(KNOWN, taken=date(2020, 7, 1)), KNOWN, ["order"]),
        (Origin(), KNOWN, ["patient_unknown", "order_unknown"]),
        (KNOWN, Origin(), ["patient_unknown", "order_unknown"]),
    ],
)
def test_it_is_said_where_two_examinations_may_not_belong_together(
    earlier: Origin, now: Origin, expected: list[str]
) -> None:
    before, after = replace(phantom("earlier"), origin=earlier), replace(phantom(), origin=now)
    days = {key: "" if o.taken is None else o.taken.isoformat() for key, o in (("earlier", earlier), ("now", now))}
    own = [STRINGS["earlier"]["warning"].format(warning=warning) for warning in before.warnings]
    assert own
    assert earlier_warnings(before, after) == [*(STRINGS["earlier"][key].format(**days) for key in expected), *own]
    text = report(after, Options(viewer=False, earlier=before))
    assert all(warning in Page(text).script("l2snet-summary")["warnings"] for warning in own)
    assert not any(name in text for name in ("ID-17", "ID-18", "19500101"))
    for origin in (earlier, now):
        day = STRINGS["earlier"]["no_date"] if origin.taken is None else origin.taken.isoformat()
        assert day in Page(text).text


def test_it_is_said_what_of_two_examinations_was_not_made_alike() -> None:
    now = phantom()
    before = replace(phantom("earlier"), manifest={**now.manifest, "fusion": "components", "thresholds": {}})
    before = replace(before, measurement=replace(before.measurement, suv_type="bsa"))
    sentence = "what differs: Fusion, Thresholds, what SUV is normalised by."
    assert any(sentence in warning for warning in earlier_warnings(before, now))
    unknown = earlier_warnings(replace(before, manifest={}), now)
    assert STRINGS["earlier"]["made_unknown"] in unknown
    assert not any("Fusion" in warning for warning in unknown)


def test_headers_tell_whose_an_examination_is_and_of_which_day() -> None:
    def told(**header: str) -> Origin:
        dicom: Any = SimpleNamespace(pet=SimpleNamespace(headers=(header,)))
        return origin_of(dicom)

    assert told(PatientID="ID-17 ", PatientBirthDate="19500101", AcquisitionDate="20200506") == KNOWN
    assert told(AcquisitionDate="", SeriesDate="unknown", StudyDate="2020.05.06").taken == date(2020, 5, 6)
    assert told(PatientID="") == Origin() == origin_of(None)
    assert "17" not in repr(KNOWN)


def test_two_examinations_are_shown_on_one_scale() -> None:
    now = phantom()
    view = projection(now.suv, {LESION: now.labels}, CORONAL, now.box)
    more = padded(view, (view.size_mm[0] + 30.0, view.size_mm[1] + 40.0))
    assert more.size_mm == (view.size_mm[0] + 30.0, view.size_mm[1] + 40.0)
    rows, columns = view.suv.shape
    np.testing.assert_array_equal(more.suv[:rows, 5 : 5 + columns], view.suv)
    assert more.suv.sum() == pytest.approx(view.suv.sum())
    for moved, mark in zip(more.marks, view.marks, strict=True):
        np.testing.assert_allclose(moved.lines[0], mark.lines[0] + [20.0, 0.0])
    short = phantom("earlier")
    short.__dict__["box"] = (slice(0, 36), slice(2, 28), slice(1, 30))
    views = earlier_part(short, now, 10.0, ("tmtv_ml",))["views"]
    for one, other in (views[:2], views[2:]):
        assert one["height"] == pytest.approx(other["height"], abs=3.0)
        assert one["width"] == pytest.approx(other["width"], abs=4.0)


def test_the_outline_of_the_truth_has_a_halo(page: Page) -> None:
    kinds = [attributes["class"] for tag, attributes in page.elements if tag == "g"]
    halos = [attributes for tag, attributes in page.elements if tag == "path" and attributes.get("class") == "halo"]
    assert len(halos) == kinds.count("mark truth") > 0


def test_sliders_wait_for_the_viewer_and_keep_nothing(page: Page) -> None:
    inputs = [attributes for tag, attributes in page.elements if tag in ("input", "select")]
    assert {attributes.get("autocomplete") for attributes in inputs} == {"off"}
    thresholds = [attributes for attributes in inputs if attributes.get("class") == "threshold"]
    assert len(thresholds) == 2
    assert all("disabled" in attributes for attributes in thresholds)


def test_the_body_surface_is_the_subjects() -> None:
    plain = phantom()
    one = plain.labels == 1
    subject = Subject(70.0, 1.75, "F")
    mask = plain.case.suv.canonical().with_array(one.astype(np.uint8)).array
    findings = find(plain.case, mask, plain.probability, plain.cue, MANIFEST, subject)
    assert findings.burden.lesions == 1
    assert findings.burden.dmax_mm == 0
    told, _ = payload(findings)
    assert told["surface_m2"] == subject.surface_m2
    assert payload(plain)[0]["surface_m2"] is None
    empty = find(plain.case, np.zeros_like(mask), plain.probability, plain.cue, MANIFEST, subject)
    assert "SDmax" in Page(report(empty, Options())).text


def test_an_empty_mask_keeps_the_columns_of_the_csv(page: Page) -> None:
    case = phantom_case()
    empty = Page(report(find(case, np.zeros(case.suv.array.shape, bool)), Options(viewer=False)))
    for some in (page, empty):
        assert some.script("l2snet-data")["csv"]["columns"] == ["case", *LESION_COLUMNS]


def test_a_hostile_name_is_only_text() -> None:
    findings = phantom(HOSTILE)
    manifest = {**findings.manifest, "notes": [HOSTILE], "engine": HOSTILE}
    earlier = phantom(HOSTILE, with_ct=False)
    text = report(replace(findings, manifest=manifest), Options(truth=HOSTILE, earlier=earlier))
    hostile, plain = Page(text), Page(report(phantom(), Options(earlier=phantom(with_ct=False))))
    assert [tag for tag, _ in hostile.elements if tag != "li"] == [tag for tag, _ in plain.elements if tag != "li"]
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert hostile.text.count(HOSTILE) >= 4
    assert hostile.script("l2snet-data")["name"] == HOSTILE


def test_the_bundle_is_the_published_one() -> None:
    assert NIIVUE == "niivue-0.69.0.umd.js.gz"
    assert (
        hashlib.sha256(niivue()[0].encode()).hexdigest()
        == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    )


def test_a_page_without_viewer_is_small_and_complete() -> None:
    text = report(phantom(), Options(viewer=False))
    assert len(text) < 400_000
    assert "packed-pet" not in text
    assert Page(text).script("l2snet-data")["rows"]


def test_warnings_name_what_to_beware_of() -> None:
    case = phantom_case(with_ct=False)
    mask = np.zeros(case.suv.array.shape, bool)
    mask[10:20, 10:20, 10:20] = True
    mask[0, 3, 3] = True
    found = " ".join(find(case, mask).warnings)
    for part in ("no CT", "12 cm long", "edge of the image, where it may be cut: lesion 2.", "Tiny", "Faint"):
        assert part in found
    empty = find(case, np.zeros(mask.shape, bool))
    assert any("no lesion was found" in warning for warning in empty.warnings)
    assert "No lesion." in Page(report(empty, Options(viewer=False))).text


def test_a_comparison_sorts_components_by_what_they_touch() -> None:
    truth, mask = (np.zeros((1, 1, 12), bool) for _ in range(2))
    truth[..., 0:3] = truth[..., 9:11] = True
    mask[..., 2:4] = mask[..., 6] = True
    layers = {kind: np.flatnonzero(layer).tolist() for kind, layer in comparison_layers(truth, mask).items()}
    assert layers == {"right": [2, 3], "wrong": [6], "truth": [0, 1, 2], "missed": [9, 10]}


def test_the_comparison_shows_the_evaluations_numbers(page: Page) -> None:
    findings = phantom()
    assert findings.case.lesions is not None
    truth = findings.case.lesions.array > 0
    scores = measure(truth, findings.measurement.mask.array, findings.case.geometry.spacing_mm)
    assert scores.false_positives >= 1
    assert scores.fnv_ml > 0
    for key in ("dice", "fpv_ml", "fnv_ml"):
        assert shown(getattr(scores, key), key) in page.text
    kinds = [
        attributes["class"]
        for tag, attributes in page.elements
        if tag == "g" and "mark" in (attributes.get("class") or "")
    ]
    assert {"mark right", "mark wrong", "mark truth", "mark missed"} <= set(kinds)


def test_another_mask_is_not_called_the_truth() -> None:
    text = Page(report(phantom(), Options(viewer=False, truth="SEG-b.nii.gz", is_truth=False))).text
    own = STRINGS["against"]
    for part in (own["heading"], "SEG-b.nii.gz", own["kinds"]["wrong"], own["kinds"]["missed"]):
        assert part in text
    text = text.replace("neither is taken for the truth", "")
    assert not any(word in text for word in ("truth", "true lesion", "false positive", "missed", "wrong"))
    assert own.keys() == STRINGS["comparison"].keys()
    assert all(own[key].keys() == STRINGS["comparison"][key].keys() for key in ("kinds", "numbers"))


def test_software_of_a_manifest_without_a_version_is_not_none() -> None:
    manifest = {key: value for key, value in MANIFEST.items() if key != "l2snet"}
    text = Page(report(replace(phantom(), manifest=manifest), Options(viewer=False))).text
    assert "numpy 1.2.3" in text
    assert "l2snet None" not in text


def test_a_change_has_a_sign_and_a_percentage() -> None:
    assert changed(10.0, 12.5, "tmtv_ml") == "+2.5 (+25 %)"
    assert changed(4, 1, "lesions") == "-3 (-75 %)"
    assert changed(0.0, 3.0, "tmtv_ml") == "+3.0"
    assert changed(None, 3.0, "suv_max") == STRINGS["undefined"]


def test_the_cohort_page_lists_every_report(tmp_path: Path) -> None:
    for name, folder in (("a", "a"), (HOSTILE, "b c#?")):
        write_files(phantom(name, truth=False), tmp_path / folder / REPORT, Options(viewer=False), pictures=False)
    write_text("<html>something else", tmp_path / "d" / REPORT)
    text = write_cohort(tmp_path).read_text("utf-8")
    listed = Page(text)
    links = [attributes["href"] for tag, attributes in listed.elements if tag == "a"]
    assert links == ["a/report.html"] * 2 + ["b%20c%23%3F/report.html"] * 2
    assert [case["case"] for case in listed.script("l2snet-data")["cases"]] == ["a", HOSTILE]
    assert "d/report.html" in listed.text
    failed = Page(write_cohort(tmp_path, [tmp_path / "a"], ["e", HOSTILE]).read_text("utf-8"))
    assert f"Failed, so not listed: e, {HOSTILE}" in failed.text
    assert not any(name.startswith("on") for _, attributes in listed.elements for name in attributes)
    assert sum(tag == "circle" for tag, _ in listed.elements) == 2 * 4


def test_a_summary_is_read_in_parts_and_nothing_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(phantom("a", truth=False), tmp_path / REPORT, Options(viewer=False), pictures=False)
    whole = read_summary(tmp_path / REPORT, tmp_path)
    monkeypatch.setattr("l2snet.report.cohort.READ", 999)
    with (tmp_path / REPORT).open("ab") as file:
        file.write(b"\xff" * 20_000)  # no text
    assert read_summary(tmp_path / REPORT, tmp_path) == whole


def test_a_cohort_takes_nothing_but_a_picture_as_thumbnail(tmp_path: Path) -> None:
    told = {
        "name": "x",
        "totals": dict.fromkeys(("tmtv_ml", "tlg", "lesions", "suv_max", "dmax_mm"), 1),
        "warnings": [],
    }
    for thumbnail, kept in (
        ("javascript:alert(1)", ""),
        ("data:image/webp;base64,AAAA", "data:image/webp;base64,AAAA"),
    ):
        text = json.dumps({**told, "thumbnail": thumbnail})
        write_text(f'<script type="application/json" id="l2snet-summary">{text}</script>', tmp_path / REPORT)
        assert read_summary(tmp_path / REPORT, tmp_path).thumbnail == kept


def test_a_name_that_is_not_utf8_stops_no_page(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    try:
        write_files(phantom(name, truth=False), tmp_path / name / REPORT, Options(viewer=False), pictures=False)
        write_text("<html>something else", tmp_path / f"{name}2" / REPORT)
    except (OSError, OutputError):
        pytest.skip("this file system has names in UTF-8 alone")
    listed = Page(write_cohort(tmp_path).read_text("utf-8"))
    assert [attributes["href"] for tag, attributes in listed.elements if tag == "a"] == ["caf%E9/report.html"] * 2
    assert "Not read: caf\ufffd2/report.html" in listed.text


def test_points_of_a_plot_lie_in_order_on_its_axis(tmp_path: Path) -> None:
    write_files(phantom(truth=False), tmp_path / REPORT, Options(viewer=False), pictures=False)
    one = read_summary(tmp_path / REPORT, tmp_path)
    cases = [replace(one, totals={**one.totals, "tlg": value}) for value in (5.0, 0.0, 100.0, 10.0, None)]
    found = plot(cases, "tlg")
    assert [point[3] for point in found["points"]] == ["5.0", "0.0", "100.0", "10.0"]
    x = [point[0] for point in found["points"]]
    assert x == [90.0, 20.0, 300.0, 160.0]
    assert found["median"] == 20.0 + 280.0 * 0.75 / 2
    assert cohort_page(cases).count("<circle") == 4 * 5 - 1


def test_the_command_writes_page_and_pictures(tmp_path: Path) -> None:
    findings = phantom("case", truth=False)
    write_volume(findings.case.suv, tmp_path / "pet.nii.gz", compress=True)
    write_volume(findings.measurement.mask, tmp_path / "mask.nii.gz", compress=True)
    arguments = ["--pet", str(tmp_path / "pet.nii.gz"), "--pet-only", str(tmp_path / "mask.nii.gz")]
    arguments += ["--against", str(tmp_path / "mask.nii.gz")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lesion_077.png").touch()  # of a run before
    (tmp_path / "out" / "lesion_77a.png").touch()
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments, "--png", "--no-viewer", "--out", str(tmp_path / "out" / "page.html")])
    assert stop.value.code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    lesions = [f"lesion_{lesion.number:03d}.png" for lesion in findings.measurement.lesions]
    assert names == sorted([*lesions, "lesion_77a.png", "page.html", "projection.png", "rotation.webp"])
    assert STRINGS["against"]["heading"] in (tmp_path / "out" / "page.html").read_text("utf-8")
    with Image.open(tmp_path / "out" / "projection.png") as picture:
        assert min(picture.size) > 600


class Known:
    """A method that answers with what is known of the case."""

    has_cue = True

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    @property
    def settings(self) -> dict[str, object]:
        return dict(MANIFEST)

    def segment(self, case: Case) -> Segmentation:
        assert self.findings.probability is not None
        return Segmentation(case.name, self.findings.measurement.mask, self.findings.probability, self.findings.cue)


def test_predict_writes_the_report_of_its_own_result(tmp_path: Path) -> None:
    findings = phantom("case", truth=False)
    run_case(findings.case, Known(findings), tmp_path, Wanted(manifest=False, report=Options()), 0.0)
    page = Page((tmp_path / REPORT).read_text("utf-8"))
    assert page.script("l2snet-data")["totals"]["tmtv_ml"] == pytest.approx(findings.burden.tmtv_ml, rel=1e-5)
    assert page.script("l2snet-data")["viewer"]["rule"]["off"] == 0.5
    assert "a1" * 32 in page.text


def test_a_report_that_fails_loses_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = phantom("case", truth=False)
    mask = challenge.mask_path(tmp_path, "case")
    there: list[bool] = []

    def fails(*_: object, **__: object) -> None:
        there.extend([mask.is_file(), (tmp_path / MANIFEST_FILE).is_file()])
        raise OutputError("no room for a page")

    monkeypatch.setattr("l2snet.report.files.write_files", fails)
    with pytest.raises(OutputError, match="no room"):
        run_case(findings.case, Known(findings), tmp_path, Wanted(report=Options()), 0.0)
    assert there == [True, True]
    assert mask.is_file()


def test_a_mask_is_there_only_when_tables_maps_and_manifest_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = phantom("case", truth=False)

    def written(*_: object) -> Path:
        names = {path.name for path in tmp_path.iterdir()}
        assert {"lesions.csv", "patient.csv", "probability.mha", "cue.mha", MANIFEST_FILE} <= names
        raise OutputError("no room for a mask")

    monkeypatch.setattr("l2snet.sources.challenge.write", written)
    wanted = Wanted(probability=True, cue=True, measuring=Measuring(), report=Options())
    with pytest.raises(OutputError, match="no room"):
        run_case(findings.case, Known(findings), tmp_path, wanted, 0.0)
    assert not (tmp_path / REPORT).exists()


def test_dicom_is_read_as_predict_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Reading, bool]] = []

    def read(folder: Path, reading: Reading, strict: bool = True) -> None:
        asked.append((reading, strict))
        raise InputError("that was all")

    monkeypatch.setattr("l2snet.sources.inputs.read_input", read)
    options = ["--series", "1.2", "--series", "3.4", "--time-convention", "challenge"]
    for more in ([], ["--earlier", "a", "b"]):
        with pytest.raises(SystemExit):
            main(["report", "study", str(tmp_path), *options, *more])
    (reading, strict), (_, loose) = asked
    assert list(reading.series) == ["1.2", "3.4"]
    assert reading.convention is TimeConvention.challenge
    assert (strict, loose) == (True, False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"measured": None}, "measured is null; expected an object"),
        ({"measured": {"smallest_ml": "x"}}, 'measured.smallest_ml is "x"; expected a number from 0'),
        ({"measured": {"suv_floor": -1}}, "measured.suv_floor is -1; expected a number from 0"),
        ({"measured": {"suv_type": "furlong"}}, 'measured.suv_type is "furlong"; expected one of bw, lbm, bsa'),
        ({"measured": {"suv_type": ["bw"]}}, "measured.suv_type is "),
        ({"thresholds": {"on_cue": 0.1, "cue": 0.5}}, "thresholds.off_cue is missing; expected a number from 0 to 1"),
        ({"thresholds": {"lesion": float("nan")}}, "thresholds.lesion is NaN"),
        ({"least_overlap": 1.5}, "least_overlap is 1.5; expected a number from 0 to 1"),
        ({"thresholds": [1]}, "thresholds is "),
        ({"packages": ["numpy"]}, "packages is "),
        ({"notes": "a note"}, "notes is "),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_in_a_sentence(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    case = phantom_case()
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**MANIFEST, **changes}))
    with pytest.raises(InputError) as raised:
        read_manifest(tmp_path / MANIFEST_FILE)
    assert f"{MANIFEST_FILE}: {sentence}" in str(raised.value)
    with pytest.raises(InputError, match=re.escape(sentence)):
        find(case, np.zeros(case.suv.array.shape, bool), manifest={**MANIFEST, **changes})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give INPUT and RESULT"),
        (["--pet", "a.mha", "out"], "--pet was given without --ct"),
        (["--cohort", "nowhere"], "no report.html"),
        (["--cohort", "a", "b", "c"], "--cohort was given with a case"),
        (["--cohort", "a", "--truth", "b"], "--cohort was given with --truth"),
        (["--cohort", "a", "--earlier", "b", "c"], "--cohort was given with --earlier"),
        (["--cohort", "a", "--png"], "--cohort was given with --png"),
        (["--cohort", "a", "--out", "b"], "--cohort was given with --out"),
        (["in", "out", "--ct", "a.mha"], "--ct was given with INPUT"),
        (["--pet", "a.mha", "--ct", "b.mha", "--pet-only", "out"], "--ct and --pet-only exclude each other"),
        (["in", "out", "--max-suv", "inf"], "--max-suv is inf"),
        (["in", "out", "--truth", "a", "--against", "b"], "--truth and --against exclude each other"),
    ],
)
def test_the_command_says_what_is_missing(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_maps_and_manifest_are_read_from_the_result_and_checked(tmp_path: Path) -> None:
    findings = phantom(truth=False)
    assert findings.probability is not None
    write_volume(findings.measurement.mask, tmp_path / "SEG.nii.gz", compress=True)
    write_volume(findings.probability, tmp_path / "probability.mha", compress=False)
    manifest = {**findings.manifest, "measured": {"smallest_ml": 1.0}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    found = read_findings(findings.case, tmp_path)
    assert found.rules.smallest_ml == 1.0
    assert all(lesion.volume_ml >= 1.0 for lesion in found.measurement.lesions)
    assert found.probability is not None
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        read_findings(findings.case, tmp_path)
    other = phantom_case()
    moved = replace(other.suv.geometry, origin_mm=(0.0, 0.0, 0.0))
    write_volume(replace(other.suv, geometry=moved), tmp_path / "probability.mha", compress=False)
    with pytest.raises(InputError, match="not on the PET's grid"):
        read_findings(findings.case, tmp_path)
