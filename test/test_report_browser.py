"""The report in headless Chromium: it works without a console error, asks nobody, and counts as the program does."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from csv import DictReader
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import CUE, HOSTILE, MANIFEST, OFF, ON, at_thresholds, phantom, sample

from l2snet.evaluation.metrics import measure
from l2snet.fuse import LEAST_OVERLAP, cued
from l2snet.measure.table import lesion_row, patient_row
from l2snet.predict import REPORT
from l2snet.report.casepage import Options
from l2snet.report.cohort import write_cohort
from l2snet.report.files import write_files
from l2snet.report.findings import Findings, find
from l2snet.report.manifest import Rule
from l2snet.report.payload import payload, rule_of
from l2snet.report.pictures import projection_picture
from l2snet.report.strings import STRINGS, shown
from l2snet.report.views import CORONAL, LESION, projection
from l2snet.volume import Geometry, Volume

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# WebGL by the CPU: such machines have no GPU.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_MS = 240_000

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = os.environ.get("CHROMIUM") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium was found ({', '.join(BROWSERS)}, or CHROMIUM): apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a page; at the end, nothing went wrong in it, and it asked for no file but itself and no host."""
    context = browser.new_context(viewport={"width": 820, "height": 420}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))

    def open_(path: Path, before: str = "") -> Any:
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri())
        return page

    yield open_
    context.close()
    assert wrong == []
    assert asked
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def wait_for_viewer(page: Any) -> None:
    page.locator("#canvas").scroll_into_view_if_needed()
    page.wait_for_selector("#viewer[data-ready]", state="attached")


def totals_in(page: Any) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-total]')].map(e => [e.dataset.total, e.textContent]))"
    )
    return found


def totals_of(findings: Findings) -> dict[str, str]:
    row = patient_row(findings.measurement)
    return {key: shown(row[key], key) for key in ("tmtv_ml", "tlg", "lesions", "suv_max", "dmax_mm")}


def slide(page: Any, which: str, value: float) -> None:
    page.evaluate(
        "([which, value]) => { const slider = document.getElementById(`threshold-${which}`);"
        " slider.value = value; slider.dispatchEvent(new Event('input')); }",
        [which, value],
    )
    page.wait_for_selector("#lesions[aria-busy=false]")


def test_the_sample_case_can_be_looked_at(visit: Open, tmp_path: Path) -> None:
    findings = sample()
    write_files(findings, tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    assert totals_in(page) == totals_of(findings)
    wait_for_viewer(page)

    page.locator("#table tr[data-lesion='2'] button").click()
    rows = page.evaluate("L2S.data('l2snet-data').rows")
    at = " ".join(f"{mm:.2f}" for mm in rows[1]["at"])
    assert page.get_attribute("#viewer", "data-at") == at
    assert page.locator("#pictures .chosen[data-lesion='2']").count() == 2
    page.locator("#pictures g[data-lesion='1']").first.dispatch_event("click")
    assert page.locator("#table tr.chosen").get_attribute("data-lesion") == "1"

    slide(page, "off", 0.8)
    slide(page, "on", 0.3)
    other = at_thresholds(findings, 0.3, 0.8)
    assert totals_in(page) == totals_of(other) != totals_of(findings)
    assert page.locator("#table tbody tr").count() == other.burden.lesions
    page.locator("#reset").click()
    page.wait_for_selector("#lesions[aria-busy=false]")
    assert totals_in(page) == totals_of(findings)
    page.wait_for_timeout(500)  # the mask is drawn a moment after the slider rests


@pytest.mark.parametrize("fusion", ["adaptive", "cued"])
def test_the_page_measures_what_the_program_measures(visit: Open, tmp_path: Path, fusion: str) -> None:
    findings = phantom(fusion=fusion)
    assert findings.burden.lesions == (2 if fusion == "adaptive" else 1)
    write_files(findings, tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    wait_for_viewer(page)
    volumes = set()
    for on, off in ((ON, OFF), (0.05, 0.05), (0.3, 0.62), (0.99, 0.99)):
        slide(page, "on", on)
        slide(page, "off", off)
        rule = {"on": on, "off": off, "cued": fusion == "cued", "least_overlap": LEAST_OVERLAP}
        measured = page.evaluate("rule => L2S.measure(L2S.found, L2S.data('l2snet-data').viewer, rule)", rule)
        other = at_thresholds(findings, on, off)
        # Lesions of one size come in any order.
        found, right = (
            sorted(rows, key=by_size) for rows in (measured["rows"], map(lesion_row, other.measurement.lesions))
        )
        assert len(found) == len(right)
        for one, expected in zip(found, right, strict=True):
            numbers = {key: value for key, value in expected.items() if key != "number"}
            assert {key: one[key] for key in numbers} == pytest.approx(numbers, rel=2e-5, abs=1e-4)
        totals = {k: v for k, v in patient_row(other.measurement).items() if k != "suv_type"}
        assert {k for k, v in measured["totals"].items() if v is None} == {k for k, v in totals.items() if v is None}
        known = {k: v for k, v in totals.items() if v is not None}
        assert {k: measured["totals"][k] for k in known} == pytest.approx(known, rel=2e-5)
        assert totals_in(page) == totals_of(other)
        volumes.add(measured["totals"]["tmtv_ml"])
    assert len(volumes) > 2


def by_size(row: dict[str, Any]) -> tuple[float, float]:
    return -round(row["volume_ml"], 4), round(row["suv_max"], 3)


def test_a_patient_with_truth_and_a_hostile_name(visit: Open, tmp_path: Path) -> None:
    findings, before = phantom(HOSTILE), at_thresholds(phantom("earlier"), 0.3, 0.7)
    write_files(findings, tmp_path / REPORT, Options(truth=HOSTILE, earlier=before), pictures=False)
    page = visit(tmp_path / REPORT)
    assert page.locator("h1").text_content() == HOSTILE
    assert findings.case.lesions is not None
    mask = findings.measurement.mask.array
    scores = measure(findings.case.lesions.array > 0, mask, findings.case.geometry.spacing_mm).row()
    for key in ("dice", "fpv_ml", "fnv_ml", "false_positives"):
        assert page.locator(f"[data-score={key}]").text_content().split()[0] == shown(scores[key], key)
    old, new = before.burden.tmtv_ml, findings.burden.tmtv_ml
    assert old != new
    change = f"{new - old:+.1f} ({100 * (new - old) / old:+.0f} %)"
    assert page.locator("[data-change=tmtv_ml]").text_content() == change
    assert page.locator("#comparison .wrong").count() >= 1
    wait_for_viewer(page)
    page.select_option("#image", "pet")
    page.select_option("#colours", "inverse")
    for layout in ("axial", "render", "all"):
        page.select_option("#layout", layout)
    page.check("#show-cue")


def test_the_table_sorts_and_the_window_moves(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(viewer=False), pictures=False)
    page = visit(tmp_path / REPORT)

    def column(key: str) -> list[float]:
        place = [h.get_attribute("data-key") for h in page.locator("#table th[data-key]").all()].index(key) + 1
        return [float(text) for text in page.locator(f"#table tbody td:nth-child({place})").all_text_contents()]

    before = column("suv_max")
    page.locator("#table th[data-key=suv_max] button").press("Enter")
    assert column("suv_max") == sorted(before)
    assert page.get_attribute("#table th[data-key=suv_max]", "aria-sort") == "ascending"
    page.locator("#table th[data-key=suv_max] button").press("Enter")
    assert column("suv_max") == sorted(before, reverse=True)
    filtered = "document.querySelector('#suv-window feFuncR').getAttribute('tableValues')"
    wide = page.evaluate(filtered)
    page.locator("#suv-max").fill("5")
    assert page.evaluate(filtered) != wide
    page.locator("#turn").click()
    assert page.get_attribute("#turn", "aria-pressed") == "true"
    assert page.evaluate("document.getElementById('turning').decode().then(() => true)")
    text = page.evaluate("L2S.csv([{a: '=1+1', b: 'x,\"y\"', c: -2, d: null}], ['a', 'b', 'c', 'd'])")
    assert text == 'a,b,c,d\n\'=1+1,"x,""y""",-2,\n'


def test_other_thresholds_are_told_and_keep_pictures_apart(visit: Open, tmp_path: Path) -> None:
    findings = phantom()
    write_files(findings, tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text; }")

    def csv() -> list[dict[str, str]]:
        page.evaluate("document.getElementById('copied').textContent = ''")
        page.locator("#copy").click()
        page.locator("#copied:not(:empty)").wait_for()
        return list(DictReader(StringIO(page.evaluate("window.copied"))))

    own = csv()
    assert [row["number"] for row in own] == [*map(str, range(1, findings.burden.lesions + 1)), "all"]
    assert float(own[-1]["volume_ml"]) == pytest.approx(findings.burden.tmtv_ml, rel=1e-5)
    assert own[-1]["lesions"] == str(findings.burden.lesions)
    assert not any(key.startswith("threshold") for key in own[0])
    assert page.locator("#moved").is_hidden()
    assert page.locator(".threshold:disabled").count() == 2
    wait_for_viewer(page)
    page.locator("#threshold-on:enabled").wait_for()
    assert page.locator(".threshold:disabled").count() == 0

    slide(page, "off", 0.7)
    slide(page, "on", 0.3)
    other = at_thresholds(findings, 0.3, 0.7)
    page.emulate_media(media="print")
    notice = page.locator("#moved")
    assert notice.is_visible()
    for part in ("off the cue 0.70, on the cue 0.30", "off the cue 0.50, on the cue 0.10"):
        assert part in notice.text_content()
    page.emulate_media(media="screen")
    moved = csv()
    assert len(moved) == other.burden.lesions + 1
    assert float(moved[-1]["volume_ml"]) == pytest.approx(other.burden.tmtv_ml, rel=1e-5)
    assert {(row["threshold_off_cue"], row["threshold_on_cue"]) for row in moved} == {("0.7", "0.3")}

    # A picture leads to the program's own lesion of its number, and marks none of the table's.
    own_at, now_at = (
        page.evaluate(f"{rows}.map(row => row.at.map(mm => mm.toFixed(2)).join(' '))")
        for rows in (
            "L2S.data('l2snet-data').rows",
            "L2S.measure(L2S.found, L2S.data('l2snet-data').viewer, {on: 0.3, off: 0.7}).rows",
        )
    )
    last = findings.burden.lesions
    page.locator(f"#pictures g[data-lesion='{last}']").first.dispatch_event("click")
    assert page.get_attribute("#viewer", "data-at") == own_at[last - 1]
    assert page.locator("#table .chosen").count() == 0
    assert page.locator(f"#pictures .chosen[data-lesion='{last}']").count() == 2
    page.locator("#table tr[data-lesion='1'] button").click()
    assert page.get_attribute("#viewer", "data-at") == now_at[0]
    assert page.locator(".chosen").count() == 1

    page.locator("#reset").click()
    page.wait_for_selector("#lesions[aria-busy=false]")
    assert page.locator("#moved").is_hidden()
    assert csv() == own
    page.wait_for_timeout(500)


def test_what_was_not_copied_is_not_said_to_be(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(viewer=False), pictures=False)
    page = visit(tmp_path / REPORT)
    page.evaluate(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('no')); document.execCommand = () => false;"
    )
    page.locator("#copy").click()
    page.locator("#copied:not(:empty)").wait_for()
    assert "did not copy" in page.locator("#copied").text_content()


def test_without_webgl_no_threshold_can_be_moved(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(), pictures=False)
    page = visit(
        tmp_path / REPORT,
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        " function (kind, ...more) { return kind === 'webgl2' ? null : get.call(this, kind, ...more); };",
    )
    page.locator("#canvas").scroll_into_view_if_needed()
    page.locator("#stage-note", has_text="no WebGL 2").wait_for()
    assert page.locator(".threshold:disabled").count() == 2


def test_a_mask_over_pet_alone_can_be_looked_at(visit: Open, tmp_path: Path) -> None:
    plain = phantom(with_ct=False)
    findings = find(plain.case, plain.measurement.mask.array)
    write_files(findings, tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    wait_for_viewer(page)
    page.locator("#table tr[data-lesion='1'] button").click()
    at = page.evaluate("L2S.data('l2snet-data').rows[0].at")
    assert page.get_attribute("#viewer", "data-at") == " ".join(f"{mm:.2f}" for mm in at)
    assert page.locator(".threshold").count() == 0


def test_names_and_numbers_are_sorted_each_their_way(visit: Open, tmp_path: Path) -> None:
    for name in ("12a", "9", "100"):
        write_files(phantom(name, truth=False), tmp_path / name / REPORT, Options(viewer=False), pictures=False)
    page = visit(write_cohort(tmp_path))
    page.locator("#table th[data-key=case] button").click()
    assert page.locator("#table tbody td:first-child").all_text_contents() == ["9", "12a", "100"]
    order = page.evaluate(
        "() => { const cells = document.querySelectorAll('#table tbody td:nth-child(2)');"
        " ['7', '\u2013', '12'].forEach((text, i) => { cells[i].textContent = text; });"
        " const sorted = () => { document.querySelector('#table th:nth-child(2) button').click();"
        " return [...document.querySelectorAll('#table tbody td:nth-child(2)')].map(cell => cell.textContent); };"
        " return [sorted(), sorted()]; }"
    )
    none = STRINGS["undefined"]
    assert order == [["7", "12", none], ["12", "7", none]]


def test_the_floor_is_taken_as_the_program_takes_it(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    page.evaluate("window.found = { suv: new Float32Array([0.7]), probability: new Float32Array([0.9]) }")
    fuse = "L2S.fuse(window.found, { off: 0.5, on: null, cued: false }, { suv_floor: floor }, [1, 1, 1])[0]"
    assert page.evaluate(f"floor => {fuse}", 0.7) == int(np.float32(0.7) >= np.float32(0.7)) == 1
    assert page.evaluate(f"floor => {fuse}", 0.71) == 0


@pytest.mark.parametrize("least", [0.0, 0.1, 0.3, 1.0])
def test_a_component_is_cut_to_the_cue_where_the_program_cuts_it(visit: Open, tmp_path: Path, least: float) -> None:
    """Four components of 30 voxels, 0, 2, 3 and 25 of them on the cue."""
    write_files(phantom(), tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    probability, cue = np.zeros((2, 1, 1, 130), np.float32)
    for first, seen in ((0, 0), (32, 2), (64, 3), (96, 25)):
        probability[..., first : first + 30] = 0.9
        cue[..., first + 5 : first + 5 + seen] = 1
    found = {"index": list(range(130)), "suv": [5] * 130, "probability": probability.ravel().tolist()}
    found["on_cue"] = cue.ravel().astype(int).tolist()
    rule = {"off": 0.5, "on": 0.1, "cued": True, "least_overlap": least}
    fuse = "([found, rule]) => [...L2S.fuse(found, rule, { suv_floor: 0 }, [130, 1, 1])]"
    assert page.evaluate(fuse, [found, rule]) == cued(probability, cue, least_overlap=least).ravel().tolist()


def test_the_printed_caption_follows_the_window(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(viewer=False), pictures=False)
    page = visit(tmp_path / REPORT)
    page.locator("#suv-max").fill("5")
    page.emulate_media(media="print")
    caption = page.locator("#pictures > p.soft")
    assert caption.is_visible()
    assert caption.text_content().endswith("SUV 0 to 5.")
    assert page.locator("#pictures .bar").is_hidden()


def test_a_cohort_leads_to_its_reports(visit: Open, tmp_path: Path) -> None:
    for name in ("first", HOSTILE):
        write_files(phantom(name), tmp_path / name[:3].strip("</") / REPORT, Options(viewer=False), pictures=False)
    page = visit(write_cohort(tmp_path))
    assert page.locator("#table tbody tr").count() == 2
    page.locator("#table th[data-key=case] button").click()
    assert page.locator("#table tbody tr").first.locator("a").first.text_content() == HOSTILE
    page.locator("#table tbody a").filter(has_text="first").click()
    assert page.locator("h1").text_content() == "first"
    assert totals_in(page) == totals_of(phantom("first"))


def test_a_map_can_be_looked_at_without_a_rule(visit: Open, tmp_path: Path) -> None:
    plain = phantom(truth=False)
    assert plain.probability is not None
    findings = find(plain.case, plain.measurement.mask.array, plain.probability, manifest=MANIFEST)
    assert rule_of(findings) is None
    assert not findings.is_edited
    write_files(findings, tmp_path / REPORT, Options(), pictures=False)
    page = visit(tmp_path / REPORT)
    assert page.locator(".threshold, #show-cue").count() == 0
    assert "location cue" in page.locator("#viewer").text_content()
    wait_for_viewer(page)
    page.check("#show-probability")


def test_an_edited_mask_has_no_slider_but_a_warning() -> None:
    findings = phantom(truth=False)
    assert rule_of(findings) == Rule(OFF, ON, CUE, least_overlap=LEAST_OVERLAP)
    mask = findings.measurement.mask.array.copy()
    mask[tuple(np.argwhere(mask)[0])] = 0
    edited = find(findings.case, mask, findings.probability, findings.cue, MANIFEST)
    assert rule_of(edited) is None
    assert STRINGS["warnings"]["edited"] in edited.warnings
    assert STRINGS["warnings"]["edited"] not in findings.warnings
    told, packed = payload(edited)
    assert told["rule"] is None
    assert {"map_probability", "map_cue"} <= set(packed)
    # What the manifest's rules leave out was not edited.
    smallest = (findings.measurement.lesions[-1].volume_ml + findings.measurement.lesions[0].volume_ml) / 2
    manifest = {**MANIFEST, "measured": {"smallest_ml": smallest, "suv_floor": 2.0}}
    measured = find(findings.case, findings.measurement.mask.array, findings.probability, findings.cue, manifest)
    assert measured.burden.lesions < findings.burden.lesions
    assert not measured.is_edited


@pytest.mark.parametrize("max_suv", [0.7, 7.3])
def test_the_window_starts_where_it_was_set(visit: Open, tmp_path: Path, max_suv: float) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(max_suv=max_suv, viewer=False), pictures=False)
    page = visit(tmp_path / REPORT)
    slider = page.locator("#suv-max")
    assert float(slider.input_value()) == pytest.approx(max_suv)
    assert float(slider.get_attribute("min")) < max_suv < float(slider.get_attribute("max"))
    slider.fill(str(2 * max_suv))
    assert page.locator("#suv-window-text").text_content() == f"{2 * max_suv:g}"


def test_no_page_is_wider_than_a_narrow_screen(visit: Open, tmp_path: Path) -> None:
    before = phantom("earlier", truth=False)
    write_files(phantom(), tmp_path / REPORT, Options(viewer=False, earlier=before), pictures=False)
    for path in (tmp_path / REPORT, write_cohort(tmp_path)):
        page = visit(path)
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_on_paper_heads_keep_their_labels_and_colours_are_light(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(), tmp_path / REPORT, Options(viewer=False), pictures=False)
    page = visit(tmp_path / REPORT)
    style = "([what, key]) => getComputedStyle(document.querySelector(what))[key]"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(style, [".device", "borderColor"])
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(style, [".device", "borderColor"]) == light
    head = page.locator("#table th[data-key=suv_max]")
    assert head.locator("button").is_hidden()
    assert head.locator(".paper").is_visible()
    assert page.evaluate(style, ["tfoot", "display"]) == "table-row-group"


def test_only_what_can_be_chosen_or_sorted_looks_so(visit: Open, tmp_path: Path) -> None:
    write_files(phantom(truth=False), tmp_path / REPORT, Options(viewer=False), pictures=False)
    page = visit(write_cohort(tmp_path))
    cursor = "what => getComputedStyle(document.querySelector(what)).cursor"
    assert page.evaluate(cursor, "#table tbody tr") == "auto"
    assert page.locator("#table th[data-key=picture] button").count() == 0
    page.goto((tmp_path / REPORT).as_uri())
    assert page.evaluate(cursor, "#table tbody tr") == "pointer"
    assert page.evaluate(cursor, "#table tfoot tr") == "auto"


def test_a_picture_takes_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    findings = phantom()
    title = b"caf\xe9".decode("utf-8", "surrogateescape")
    projection_picture(findings.case.suv, findings.measurement.labels, tmp_path / "a.png", title)
    assert (tmp_path / "a.png").is_file()


def test_outlines_of_many_lesions_take_little_memory() -> None:
    grid = Geometry((200, 8, 200), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    suv = Volume(np.ones(grid.size, np.float32), grid)
    labels = np.zeros(grid.size, np.int32)
    labels[::4, 4, ::4] = np.arange(1, 2501).reshape(50, 50)
    tracemalloc.start()
    view = projection(suv, {LESION: labels}, CORONAL, (slice(None),) * 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(view.marks) == 2500
    assert peak < 2500 * 200 * 200 / 4  # of bools the size of the image
