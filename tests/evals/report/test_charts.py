import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.report.charts import Label, label_ends, picture, spread_out
from evals.report.palette import COLOURS, SERIES, contrast, light, of_series
from evals.report.words import one_line
from tests.evals.report.conftest import HOSTILE

NAME = one_line(HOSTILE, most=200)  # as all names reach a drawing


def draw_hostile(sheet):
    axes = sheet.figure.subplots()
    for number in range(8):
        axes.plot([1, 2], [number, 1], "o-", color=of_series(number), label=NAME)
    axes.set_title(NAME)
    label_ends(sheet, axes, [Label(1.0, HOSTILE, light("blue")), Label(1.0, "b", light("red"))])


@pytest.fixture(scope="module")
def hostile():
    names = {"title": HOSTILE, "description": HOSTILE, "heights": (200, 200)}
    return [picture(name, draw_hostile, **names) for name in ("one", "two")]


def test_a_drawing_has_no_colour_but_the_page_s(hostile):
    for own in (hostile[0].wide, hostile[0].narrow):
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb\(", own)
        assert "var(--blue)" in own


def test_no_id_is_there_twice_on_a_page(hostile):
    page = "".join(drawing for own in hostile for drawing in (own.wide, own.narrow))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:url\(#|href="#)([^")]+)', page):
        assert target in ids


def test_names_are_text_and_nothing_else(hostile):
    root = ElementTree.fromstring(hostile[0].wide)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "defs", "g", "path", "use", "clipPath", "rect", "text"}
    texts = ["".join(element.itertext()) for element in root.iter()]
    assert any("<script>alert(1)</script>$x_$" in text for text in texts)


def test_a_drawing_tells_in_words_what_it_shows(hostile):
    root = ElementTree.fromstring(hostile[0].narrow)
    assert root.get("role") == "img"
    title, description = root[0], root[1]
    assert root.get("aria-labelledby") == title.get("id")
    assert root.get("aria-describedby") == description.get("id")
    assert "ümläut" in (title.text or "")


def test_drawing_twice_gives_the_same_text(hostile):
    names = {"title": HOSTILE, "description": HOSTILE, "heights": (200, 200)}
    again = picture("one", draw_hostile, **names)
    assert (again.wide, again.png) == (hostile[0].wide, hostile[0].png)


@given(st.lists(st.floats(-100, 500), max_size=12).map(sorted))
def test_labels_keep_their_order_and_their_distance(places):
    moved = spread_out(places, 13)
    assert len(moved) == len(places)
    assert all(b - a >= 13 - 1e-6 for a, b in pairwise(moved))
    if all(b - a >= 13 for a, b in pairwise(places)):
        assert moved == pytest.approx(places)


@pytest.mark.parametrize("paper", ["light", "dark"])
def test_all_words_can_be_read_on_either_paper(paper):
    shades = {name: getattr(shade, paper) for name, shade in COLOURS.items()}
    for name in ("ink", "muted", "blue", "red", *SERIES):
        assert contrast(shades[name], shades["paper"]) >= 4.5, name
    for name in ("ink", "muted"):
        assert contrast(shades[name], shades["raised"]) >= 4.5, name


def test_each_colour_is_one_name_s():
    shades = [shade.light for shade in COLOURS.values()]
    assert all(one != other for one, other in combinations(shades, 2))
