import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import evals.report
from evals.contract import save_results
from evals.report.options import ReportOptions
from evals.report.sheet import report
from helix.config import ConfigError
from helix.training.metrics import metrics_path
from tests.evals.report import made

PLAIN_TAGS = {"script", "iframe", "object", "embed", "link", "base", "form", "image", "img"}


class Outline(HTMLParser):
    """The tags, ids, links and words of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.text = page.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def values(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def bare_page(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("bare") / "run"
    made.write_metrics(run_dir, n_steps=40, hurt=False)
    return report(ReportOptions(run_dir=str(run_dir)))[0]


@pytest.fixture(params=["bare_page", "made_page", "hostile_page"])
def page(request) -> Path:
    return request.getfixturevalue(request.param)


def test_every_link_leads_to_something_on_the_page_and_ids_are_unique(page):
    outline = Outline(page)
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    for target in outline.values("href") + outline.values("xlink:href"):
        assert target.startswith("#")
        assert target[1:] in ids
    for name in ("aria-labelledby", "aria-describedby"):
        assert set(outline.values(name)) <= set(ids)


def test_a_page_can_run_nothing_and_ask_nobody(page):
    outline = Outline(page)
    assert not PLAIN_TAGS & {tag for tag, _ in outline.tags}
    names = {name for _, attrs in outline.tags for name in attrs}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset")]
    assert not re.search(r"@import|url\((?!#)", outline.text)
    assert "default-src 'none'" in outline.text


def test_hostile_names_are_words_of_the_page(hostile_page):
    outline = Outline(hostile_page)
    assert "<img src=x onerror=alert(1)>" in outline.words
    assert '<script>alert(1)</script>$x_$ "{{ 7*7 }}" &' in outline.words


def test_metrics_alone_make_a_whole_page(bare_page):
    outline = Outline(bare_page)
    svgs = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert len(svgs) == 2 * 4  # loss, validation, bits per byte, speed; each wide and narrow
    for told in ("Facts by category", "Recall by length", "Data mix and provenance"):
        assert f"{told}: not measured" in outline.words
    assert "helix evaluate facts" in outline.words


def test_a_trained_run_without_results_tells_what_makes_them(trained_run, tmp_path):
    page = report(ReportOptions(run_dir=trained_run.run_dir, out=str(tmp_path / "r.html")))[0]
    words = Outline(page).words
    assert "20 of 20" in words
    assert "CC0-1.0" in words
    assert "Sources and their licences" in words
    for name in ("bits_per_byte", "facts", "recall", "decoding"):
        assert f"helix evaluate {name} run_dir={trained_run.run_dir}" in words


def test_a_run_with_all_results_misses_little(made_page):
    outline = Outline(made_page)
    for told in ("SmolLM2-135M", "attention_400m, step 300", "fließt durch das Tal.", "hellaswag"):
        assert told in outline.words
    missing = [attrs["id"] for _, attrs in outline.tags if attrs.get("class") == "missing"]
    assert missing == []
    assert "Recall: needle at 16384 tokens" in outline.words
    assert "How far another seed moves the figures" in outline.words


def test_every_figure_has_words_figures_and_a_picture_beside_the_page(made_page):
    outline = Outline(made_page)
    svgs = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert len(svgs) == 2 * 10
    assert {svg["role"] for svg in svgs} == {"img"}
    pictures = sorted((made_page.parent / "report_figures").glob("*.png"))
    assert len(pictures) == 10
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures)


def test_the_command_says_where_the_page_is_and_writes_the_same_one_again(bare_page, capsys):
    once = bare_page.read_bytes()
    pictures = sorted((bare_page.parent / "report_figures").iterdir())
    drawn = [file.read_bytes() for file in pictures]
    evals.report.run([f"run_dir={bare_page.parents[1]}"])
    assert str(bare_page) in capsys.readouterr().out
    assert bare_page.read_bytes() == once
    assert [file.read_bytes() for file in pictures] == drawn


def test_figures_that_are_not_finite_or_not_numbers_are_no_figures(tmp_path):
    line = {"step": 1, "attempt": 0, "tokens": 4, "train/loss_nats_per_token": None}
    lines = [line, line | {"step": 2, "train/loss_nats_per_token": "x", "speed/step_ms": None}]
    metrics_path(tmp_path).write_text("".join(json.dumps(own) + "\n" for own in lines))
    page = report(ReportOptions(run_dir=str(tmp_path)))[0]
    assert "Training loss: not measured" in Outline(page).words


def test_a_result_without_a_number_makes_a_page(trained_run, tmp_path):
    own = made.subject(trained_run.run_dir)
    broken = []
    for result in (made.bits_result(own), made.facts_result(own), made.decoding_result(own)):
        measures = {
            path: dataclasses.replace(measure, numerators=[math.nan] * len(measure.numerators))
            for path, measure in result.measures.items()
        }
        broken.append(dataclasses.replace(result, measures=measures))
    for source in broken[0].figures["sources"].values():
        source["nats_per_token_by_position"] = {"0-63": math.nan}
    broken[0].figures["twins"]["de/en"] = {"gap_interval_95": (math.nan, math.nan)}
    save_results(broken, tmp_path / "r.json")
    out = str(tmp_path / "r.html")
    options = ReportOptions(run_dir=own.name, results=str(tmp_path / "r.json"), out=out)
    assert "no result of bits_per_byte in numbers" in Outline(report(options)[0]).words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run_dir=/nowhere"], "run_dir=/nowhere: holds no run"),
        ([], "run_dir: missing"),
        (["run_dir=x", "out=x.pdf"], "out=x.pdf: give a file that ends in .html"),
        (["run_dir=x", "colour=red"], "colour: no such setting"),
        (["compare", "x"], "give 2 to 12 run folders"),
        (["compare", "x", "y", "out=x.pdf"], "out=x.pdf"),
    ],
)
def test_a_mistake_is_told_in_one_line(words, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        evals.report.run(words)
    assert "\n" not in str(caught.value)


def test_a_page_that_cannot_be_written_is_told(made_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        report(ReportOptions(run_dir=str(made_run), out=str(tmp_path / "file" / "r.html")))
