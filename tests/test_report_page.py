"""report.html in a browser, from a file and without a network: what one sees, and what happens where one points."""

import json
import re

import browser
import numpy as np
import pytest
from browser import EVIL, contrast
from sklearn import metrics as sklearn

from jaxft.reports.figures import class_figures, value_figures
from jaxft.reports.report import write

STEPS = np.arange(10, 310, 10)
LOSS = 2.5 * np.exp(-STEPS / 90) + 0.1 + 0.05 * np.sin(STEPS)
RATE = 5e-4 * (1 - STEPS / 310)
NORM = np.where(STEPS == 150, 900.0, 1.0 + 0.5 * np.cos(STEPS))  # one peak: a logarithmic axis


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run's files, with all that a page can show, and names that are code."""
    workdir = tmp_path_factory.mktemp("page") / "run"
    workdir.mkdir()
    rng = np.random.default_rng(0)
    labels = [EVIL, "a-class-with-a-name-that-is-rather-long", "ünï 漢字", "d"]
    figures = [*class_figures(*rng.integers(0, 4, (2, 200)), labels), *value_figures(*rng.standard_normal((2, 50)))]
    report = {"rows": 300, "kept": 299, "dropped": {EVIL: 1}, "tokens": 9000, "truncated": 2, "notes": {}}
    summary = {
        "steps": 300,
        "epochs": 3.0,
        "epochs_per_step": 0.01,
        "data": {"train": report, "val": report},
        "targets": {"train": dict.fromkeys(labels, 75), "val": dict.fromkeys(labels, 1)},
        "batches": {"useful": 0.8, "shapes": [[16, 32], [16, 64]]},
        "dtype": "float32",
        "parameters": {"trained": 1_000_000, "frozen": 500, "bytes": 2**30},
        "devices": {"kind": "cpu", "count": 1, "mesh": {"data": 1}, "processes": 1},
        "versions": {"jaxft": "0.1.0"},
        "model_step": 300,
        "model_score": 0.5,
        "ended": None,
    }
    lines = [
        {
            "step": int(step),
            "split": "train",
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "epoch": step / 100,
            "tokens_per_second": 12345.6,
            "steps_per_second": 3.0,
            "memory_bytes": 2**30,
        }
        for step, loss, rate, norm in zip(STEPS, LOSS, RATE, NORM, strict=True)
    ]
    lines += [{"step": step, "split": "val", "loss": 1.0, "accuracy": step / 400} for step in (105, 205, 300)]
    config = {"evals": {"val": {}}, "save": {"best": None}, "model": EVIL * 3}
    for name, values in (("metrics", lines), ("pictures", [{"step": 300, "split": "val", "figures": figures}])):
        (workdir / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    for name, value in (("config", config), ("summary", summary)):
        (workdir / f"{name}.json").write_text(json.dumps(value))
    write(workdir)
    return workdir


@pytest.fixture(scope="module")
def tab():
    tab = browser.Page()
    yield tab
    tab.close()


@pytest.fixture
def page(tab, workdir):
    tab.open(workdir / "report.html")
    return tab


def figure(title: str) -> str:
    """JavaScript: the drawing of this title."""
    is_it = f"f => f.querySelector('b').textContent === {json.dumps(title)}"
    return f"[...document.querySelectorAll('figure')].find({is_it})"


def box(page, element: str) -> dict:
    return page.run(f"(({element}).scrollIntoView({{block: 'center'}}), {element}.getBoundingClientRect().toJSON())")


def read_off(page, title: str) -> tuple[list[float], list[float]]:
    """Steps and values of the first curve, read as a person does: where its corners lie between the ticks."""
    numbers = page.run(f"""(() => {{
        const f = {figure(title)}, svg = f.querySelector("svg"), line = f.querySelector("path.line");
        const matrix = svg.getScreenCTM();
        const corners = line.getAttribute("d").match(/[0-9.]+ [0-9.]+/g).map((pair) => {{
            const place = new DOMPoint(...pair.split(" ").map(Number)).matrixTransform(matrix);
            return [place.x, place.y];
        }});
        const ticks = (kind, place) => [...f.querySelectorAll(kind + " span")].map((s) => {{
            const r = s.getBoundingClientRect();
            return [s.textContent, kind === ".xs" ? (r.left + r.right) / 2 : (r.top + r.bottom) / 2];
        }});
        return [corners, ticks(".xs"), ticks(".ys")];
    }})()""")
    corners, across, up = numbers
    logarithmic = page.run(f"{figure(title)}.querySelector('small').textContent").endswith("logarithmic")
    return between(across, [x for x, _ in corners], False), between(up, [y for _, y in corners], logarithmic)


def between(ticks: list, places: list[float], logarithmic: bool) -> list[float]:
    values = np.array([float(re.sub("[kM]$", {"k": "e3", "M": "e6"}.get(label[-1], ""), label)) for label, _ in ticks])
    slope, start = np.polyfit([place for _, place in ticks], np.log(values) if logarithmic else values, 1)
    found = start + slope * np.array(places)
    return list(np.exp(found) if logarithmic else found)


def test_the_matrix(page):
    """Rows are the true class, and the darker a cell the larger its share of the row."""
    truth, guesses = np.random.default_rng(0).integers(0, 4, (2, 200))
    cells = page.run("[...document.querySelectorAll('.matrix tbody td')].map(cell => [cell.textContent, cell.title])")
    wanted = sklearn.confusion_matrix(truth, guesses)
    assert [int(count) for count, _ in cells] == wanted.ravel().tolist()
    shares = 100 * wanted / wanted.sum(1, keepdims=True)
    assert [title for _, title in cells] == [f"{round(share)}% of the row" for share in shares.ravel()]
    style = "[...document.querySelectorAll('.matrix tbody td')].map(cell => getComputedStyle(cell).backgroundColor)"
    red = [float(re.findall(r"[0-9.]+", color)[0]) for color in page.run(style)]  # less of it the deeper the shade
    assert np.corrcoef(red, shares.ravel())[0, 1] < -0.99


def test_it_loads_alone_and_in_silence(page, workdir):
    """One address asked for, nothing on the console, and no code of a name has run."""
    assert page.asked == [(workdir / "report.html").as_uri()]
    assert page.said == [] and page.run("window.caught === undefined")
    assert page.run("document.title") == "run: training report" and page.run("document.compatMode") == "CSS1Compat"
    cells = "[...document.querySelectorAll('.matrix tbody th')].map(c => c.textContent)"
    assert page.run(cells)[0] == EVIL
    assert EVIL * 3 in page.run("[...document.querySelectorAll('.pairs td')].map(c => c.textContent)")


@pytest.mark.parametrize("title, values", [("Loss", LOSS), ("Learning rate", RATE), ("Gradient norm", NORM)])
def test_curves_lie_where_the_axes_say(page, title, values):
    steps, found = read_off(page, title)
    np.testing.assert_allclose(steps, STEPS, atol=1.5)
    if title == "Gradient norm":
        np.testing.assert_allclose(np.log(found), np.log(values), atol=0.05)
    else:
        np.testing.assert_allclose(found, values, atol=0.01 * np.ptp(values))
    area, line = (box(page, f"{figure(title)}.querySelector('{name}')") for name in (".area", ".line"))
    assert line["width"] > 0.9 * area["width"] and line["height"] > 0.5 * area["height"]
    assert area["left"] - 1 <= line["left"] and line["right"] <= area["right"] + 1
    assert area["top"] - 1 <= line["top"] and line["bottom"] <= area["bottom"] + 1


def test_pointing_shows_values(page):
    """The nearest log point's, and those of the other curve near it; gone when the mouse is."""
    area = box(page, f"{figure('Loss')}.querySelector('.area')")
    tip = f"{figure('Loss')}.querySelector('.tip')"
    assert page.run(f"{tip}.hidden")
    for step in (10, 120, 300):
        page.point(area["left"] + area["width"] * (step + 2) / 300 - (4 if step == 300 else 0), area["top"] + 40)
        lines = page.run(f"[...{tip}.children].map(line => line.innerText.split(/\\s*\\n\\s*/).join(' '))")
        near = 105 if step < 155 else 300
        assert lines == [
            f"step {step} (epoch {step / 100:.2f})",
            f"train {LOSS[STEPS == step][0]:.4f}",
            "val 1" if near == step else f"val at {near} 1",
        ]
        shown = page.run(f"{tip}.getBoundingClientRect().toJSON()")
        assert shown["width"] > 50 and 0 <= shown["left"] and shown["right"] <= 1200
        marks = page.run(f"[...{figure('Loss')}.querySelectorAll('.mark')].map(m => m.getBoundingClientRect().x)")
        assert len(marks) == 2 and marks[0] + 4.5 == pytest.approx(area["left"] + area["width"] * step / 300, abs=1.5)
    page.point(5, 5)
    assert page.run(f"{tip}.hidden") and page.run(f"{figure('Loss')}.querySelectorAll('.mark').length") == 0


def test_arrow_keys(page):
    page.run(f"{figure('Learning rate')}.focus()")
    tip = f"{figure('Learning rate')}.querySelector('.tip')"
    for key, step in (("ArrowRight", 10), ("ArrowRight", 20), ("ArrowLeft", 10), ("End", 300), ("ArrowRight", 300)):
        page.press(key)
        assert page.run(f"{tip}.innerText").startswith(f"step {step} ")
    assert page.run(f"{tip}.lastChild.lastChild.textContent") == "1.61e-5"  # 5e-4 * 10 / 310
    page.press("Escape")
    assert page.run(f"{tip}.hidden")


def test_points_of_a_cloud(page):
    area = box(page, f"{figure('Predicted against true')}.querySelector('.area')")
    assert area["width"] == pytest.approx(area["height"], rel=0.1)
    page.point(area["left"] + area["width"] / 2, area["top"] + area["height"] / 2)
    words = page.run(f"{figure('Predicted against true')}.querySelector('.tip').innerText")
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", words)]
    points = np.random.default_rng(0)
    points.integers(0, 4, (2, 200))
    distance = np.abs(points.standard_normal((2, 50)).T - numbers).max(1)
    assert "true value" in words and "predicted value" in words and distance.min() < 1e-3


def test_without_scripts(tab, workdir):
    tab.do("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(workdir / "report.html")
    steps, found = read_off(tab, "Loss")
    tab.do("Emulation.setScriptExecutionDisabled", value=False)
    np.testing.assert_allclose(found, LOSS, atol=0.03)


@pytest.mark.parametrize("width", [320, 375, 768, 1200])
def test_every_width(tab, workdir, width):
    """Nothing sticks out; the drawings keep their letters' size."""
    tab.open(workdir / "report.html", width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(f"{figure('Loss')}.querySelector('.area').getBoundingClientRect().width") > 200
    letters = "[...document.querySelectorAll('figure *, td, th')]"
    assert min(tab.run(f"{letters}.map(e => parseFloat(getComputedStyle(e).fontSize))")) >= 11
    assert tab.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(tab, workdir, scheme):
    """Every text against what is behind it: WCAG's contrast of 4.5."""
    tab.open(workdir / "report.html", scheme=scheme)
    pairs = tab.run("""(() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgb = (color) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const behind = (e) => {
            for (; e; e = e.parentElement) {
                const color = rgb(getComputedStyle(e).backgroundColor);
                if (color[3] === 255) return color;
            }
        };
        const says = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        return [...document.querySelectorAll("body *")]
            .filter((e) => says(e) && e.getClientRects().length)
            .map((e) => [rgb(getComputedStyle(e).color), behind(e), e.textContent]);
    })()""")
    assert len(pairs) > 200 and (np.mean(pairs[0][1][:3]) < 64) == (scheme == "dark")
    for ink, page, text in pairs:
        assert contrast(ink, page) >= 4.5, (text, ink, page)


def test_names_for_those_who_do_not_see(page):
    """As Chromium hands them to a screen reader."""
    nodes = page.do("Accessibility.getFullAXTree")["nodes"]
    of = {}
    for node in nodes:
        if not node.get("ignored"):
            of.setdefault(node["role"]["value"], []).append(node)
    pictures = of.get("image", []) + of.get("img", [])
    assert {node["name"]["value"] for node in pictures} >= {"Loss", "Learning rate", "Gradient norm", "accuracy"}
    loss = next(node for node in pictures if node["name"]["value"] == "Loss")
    assert f"train: from {LOSS[0]:.4g} at step 10" in loss["description"]["value"]
    assert of["table"] and all(node["name"]["value"] for node in of["table"])
    assert page.run("[...document.querySelectorAll('th')].every(cell => cell.scope)")
    assert page.run("document.documentElement.lang") == "en" and len(of["heading"]) >= 6


def test_a_browser_is_needed(monkeypatch):
    """Who has none and may not install one is told, and nothing is passed over."""
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setattr(browser.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="error: the tests of report.html need Chromium"):
        browser.install()
    with pytest.raises(RuntimeError, match="CHROMIUM=/path/to/it"):
        browser.Page()
