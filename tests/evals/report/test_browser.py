"""The page in a real Chromium: it renders, asks nobody, and can be read by all."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: apt-get install --no-install-recommends chromium"
)

PAGES = ("made_page", "hostile_page")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SHOWN = "[...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility())"
NAMED = (
    SHOWN + ".every(svg => ['aria-labelledby', 'aria-describedby'].every("
    "name => document.getElementById(svg.getAttribute(name))?.textContent.trim()))"
)
CHECKED = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(browser, file, **options):
    """Open a file; give the page, what its console said and whom it asked."""
    context = browser.new_context(**options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page, said, asked
    context.close()


@pytest.fixture(params=PAGES)
def file(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_without_a_word_to_console_or_network(browser, file, scheme):
    with opened(browser, file, color_scheme=scheme) as (page, said, asked):
        assert said == []
        assert asked == [page.url]
        assert page.locator("h1").is_visible()
        assert page.evaluate(f"{SHOWN}.length") == page.locator("figure .wide svg").count() > 0
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 254)") == (scheme == "light")


def test_lines_of_figures_follow_the_scheme(browser, made_page):
    ink = "getComputedStyle(document.querySelector('.wide svg text')).fill"
    found = []
    for scheme in ("light", "dark"):
        with opened(browser, made_page, color_scheme=scheme) as (page, _, _):
            found.append(page.evaluate(ink))
    assert found[0] != found[1]


def test_every_figure_shown_has_a_text_alternative(browser, file):
    for width in (390, 1280):
        with opened(browser, file, viewport={"width": width, "height": 800}) as (page, _, _):
            assert page.evaluate(f"{SHOWN}.length") > 0
            assert page.evaluate(NAMED)


@pytest.mark.parametrize("width", [320, 390, 700, 1280, 1900])
def test_nothing_is_wider_than_the_screen(browser, file, width):
    with opened(browser, file, viewport={"width": width, "height": 800}) as (page, _, _):
        assert page.evaluate(OVERFLOW) == 0


def test_a_phone_gets_drawings_of_its_own_width(browser, made_page):
    with opened(browser, made_page, viewport={"width": 390, "height": 844}) as (page, _, _):
        assert page.locator("figure .wide svg").first.is_hidden()
        letters = "getComputedStyle(s.querySelector('text')).fontSize"
        scale = "s.getBoundingClientRect().width / s.viewBox.baseVal.width"
        shown = page.evaluate(f"{SHOWN}.map(s => parseFloat({letters}) * ({scale}))")
        assert min(shown) > 9.5  # CSS pixels


@pytest.mark.parametrize(
    ("scheme", "rules"), [("light", ("tag", CHECKED)), ("dark", ("rule", ["color-contrast"]))]
)
def test_a_checker_of_accessibility_finds_no_fault(browser, made_page, scheme, rules):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    options = {"runOnly": dict(zip(("type", "values"), rules, strict=True))}
    # only so that the checker itself may run: the page forbids all scripts
    with opened(browser, made_page, color_scheme=scheme, bypass_csp=True) as (page, _, _):
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        context = {"exclude": [["svg > g"]]}  # shapes without a word; the svg itself is checked
        found = axe.Axe().run(page, context, options).response["violations"]
    assert [(fault["id"], [node["html"][:90] for node in fault["nodes"]]) for fault in found] == []


def test_it_prints(browser, file):
    with opened(browser, file, color_scheme="dark") as (page, _, _):
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        assert page.locator("nav").is_hidden()
        assert page.evaluate(f"{SHOWN}.length") == page.locator("figure .wide svg").count()
        pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") > 2
