"""The page of attributions in a browser, from a file and without a network."""

import re

import browser
import numpy as np
import pytest
from browser import EVIL, contrast

from jaxft.attribution.explanation import Explanation
from jaxft.attribution.page import pieces, write

SCRIPTS = "漢字 naïve"


def explanation(texts, tokens, values, method="integrated-gradients", **more) -> Explanation:
    """`tokens` are (name, part, start, end); of special tokens the part is None."""
    names, parts, *spans = zip(*tokens, strict=True)
    complete = method == "integrated-gradients"
    facts = {
        "target": "pos",
        "predicted": "pos",
        "score": 1.5,
        "baseline": "[MASK]" if complete else None,
        "baseline_score": 0.5 if complete else None,
        "steps": 64 if complete else None,
    } | more
    pairs = list(zip(*spans, strict=True))
    unknown = [name == "[UNK]" for name in names]
    return Explanation(method, texts, list(names), list(parts), pairs, unknown, np.array(values, float), **facts)


def of_words(text: str, values, **more) -> Explanation:
    found = [("[CLS]", None, 0, 0), *((m[0].lower(), 0, *m.span()) for m in re.finditer(r"\S+", text))]
    found.append(("[SEP]", None, 0, 0))
    return explanation((text,), found, [0, *values, 0], **more)


TEXTS = [
    of_words("A great story  and\ngood actors", [0.05, 0.6, 0.1, -0.02, 0.3, -0.04]),
    of_words(
        "A bad film: it was so dull that I left!", [0, -1, -0.1, 0.02, 0, 0.1, -0.7, 0.01, 0.1, -0.3], predicted="neg"
    ),
    explanation(
        (EVIL, "so?"),
        [("[CLS]", None, 0, 0), (EVIL, 0, 0, 9), ("script", 0, 11, 17), ("[SEP]", None, 0, 0), ("so", 1, 0, 2)],
        [0, 0.25, 0.125, 0, -0.5],
        target=EVIL,
        predicted=EVIL,
    ),
    # Two pieces of a character, a token of a character that was read already, one of white space, and a cut text.
    explanation(
        (SCRIPTS + "  and what nobody read",),
        [("æ", 0, 0, 1), ("¼", 0, 0, 1), ("å", 0, 1, 2), ("Ġna", 0, 2, 5), ("ïve", 0, 5, 8), ("Ġ", 0, 8, 9)],
        [0.25, 0.5, -0.25, 0.125, 0, 1e-5],
    ),
]


@pytest.fixture(scope="module")
def tab():
    tab = browser.Page()
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "a.html"
    write(str(file), TEXTS, EVIL)
    return file


@pytest.fixture
def page(tab, file):
    tab.open(file)
    return tab


MARKS = "[...document.querySelectorAll('mark')].map(m => [m.textContent, m.title, getComputedStyle(m).backgroundColor])"


def test_it_loads_alone_and_in_silence(page, file):
    assert page.asked == [file.as_uri()] and page.said == [] and page.run("window.caught === undefined")
    assert page.run("document.title") == f"{EVIL}: token attributions"
    assert page.run("document.compatMode") == "CSS1Compat"
    assert page.run("document.querySelectorAll('script').length") == 0


def test_the_texts_stand_as_they_were(page):
    """Every character once, white space too; special tokens between them."""
    found = page.run("[...document.querySelectorAll('.text')].map(p => p.textContent)")
    assert found == [
        f"[CLS]{TEXTS[0].texts[0]}[SEP]",
        f"[CLS]{TEXTS[1].texts[0]}[SEP]",
        f"[CLS]{EVIL}[SEP]so?",
        SCRIPTS + "␣ and what nobody read",
    ]
    unread = page.run("[...document.querySelectorAll('.unread')].map(e => e.textContent)")
    assert unread == [EVIL[17:], "?", " and what nobody read"]


def test_colours_and_numbers(page):
    """Blue raises, orange lowers, the deeper the more; and each number stands where one points."""
    marks = page.run(MARKS)
    first = [(text, title) for text, title, _ in marks[:8]]
    assert first[2] == ("great", "great: +0.6") and first[4] == ("and", "and: −0.02")

    def rgb(text):
        color = next(color for found, _, color in marks if found == text)
        r, g, b = (float(x) for x in re.findall(r"[0-9.]+", color)[:3])
        return r, g, b

    none, great, good, bad = rgb("[CLS]"), rgb("great"), rgb("good"), rgb("bad")
    assert great[2] - great[0] > good[2] - good[0] > none[2] - none[0] and bad[0] - bad[2] > 0.3 * max(bad)
    assert marks[[text for text, _, _ in marks].index("漢")][1] == "æ ¼: +0.75"


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_token_can_be_read(tab, file, scheme, width):
    tab.open(file, width=width, scheme=scheme)
    assert tab.run("document.documentElement.scrollWidth") <= width
    pairs = tab.run("""(() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgb = (color) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        return [...document.querySelectorAll("mark")].map(
            (e) => [rgb(getComputedStyle(e).color), rgb(getComputedStyle(e).backgroundColor), e.textContent]);
    })()""")
    assert len(pairs) > 20 and (np.mean(pairs[0][1][:3]) < 64) == (scheme == "dark")
    for ink, behind, text in pairs:
        assert behind[3] == 255 and contrast(ink, behind) >= 4.5, (text, ink, behind)


def test_facts(page):
    notes = page.run("[...document.querySelectorAll('section .note')].map(p => p.textContent)")
    assert notes[0] == (
        "score of pos 1.5000; of the baseline 0.5000; sum of the attributions +0.99; "
        "gap +0.01 (1.00% of the difference)"
    )
    headings = page.run("[...document.querySelectorAll('h2')].map(e => e.textContent)")
    assert headings == [
        "1. predicted: pos",
        "2. predicted: neg explained: pos",
        f"3. predicted: {EVIL}",
        "4. predicted: pos",
    ]
    rows = page.run("[...document.querySelector('details').querySelectorAll('tbody tr')].map(r => r.innerText)")
    assert len(rows) == 8


def test_attention_has_no_sign(tab, tmp_path):
    file = tmp_path / "rollout.html"
    write(str(file), [of_words("a b", [0.5, 0.25], method="attention-rollout")], "m")
    tab.open(file)
    assert "raises it" not in tab.run("document.body.innerText") and "gap" not in tab.run("document.body.innerText")
    assert "sum to 1" in tab.run("document.body.innerText")


def test_nothing_to_colour():
    """All zero: no division by it."""
    assert [piece["share"] for piece in pieces(of_words("a b", [0, 0])) if "share" in piece] == [0, 0, 0, 0]
