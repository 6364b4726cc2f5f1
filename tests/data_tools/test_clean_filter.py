import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.clean.filter import FilterSettings, filter_text
from data_tools.clean.language import identify_language, settle_by_words
from data_tools.clean.markup import is_page, strip_markup
from data_tools.clean.pii import scrub_pii
from data_tools.clean.repair import (
    BOILERPLATE_PHRASES,
    BOILERPLATE_ROOTS,
    remove_boilerplate,
    remove_controls,
    repair_encoding,
)
from data_tools.clean.statistics import TextStatistics
from helix.data import DataError
from tests.data_tools.test_clean_rules import ENGLISH, GERMAN

DUTCH = (
    "De kat zit op de mat en kijkt naar de vogels in de tuin. Het is een mooie dag en de zon "
    "schijnt, dus gaan wij met de trein naar Amsterdam om daar het museum te bezoeken."
)
FRISIAN = (
    "It is in moaie dei en de sinne skynt oer de stêd. Wy geane mei de trein nei Ljouwert om it "
    "museum te besjen, want dat is noch iepen by dei."
)
PAGE = (
    "<!DOCTYPE html><html><head><title>Brücke</title></head><body><nav><a href='/'>Start</a></nav>"
    f"<article><p>{GERMAN}</p><p>Am Abend gehen viele nach Hause.</p></article></body></html>"
)


def test_prose_is_kept_as_it_is():
    verdict = filter_text(GERMAN, "de", FilterSettings(languages=("de", "en")))
    assert (verdict.text, verdict.reason, verdict.changes) == (GERMAN, None, ())


@pytest.mark.parametrize("text", ["Grüße — „schön“ für 5 €, naïve façade, Ångström", "ÄÖÜ Ãhnlich"])
def test_right_encoding_is_left_alone(text):
    assert repair_encoding(text) == text


@pytest.mark.parametrize("encoding", ["latin-1", "windows-1252"])
def test_utf_8_read_as_another_encoding_is_mended(encoding):
    pytest.importorskip("ftfy")
    text = "Die Brücke über den Fluss wäre schön; fünf Gäste grüßten."
    assert repair_encoding(text.encode().decode(encoding)) == text


@given(text=st.text())
def test_letters_are_not_normalised(text):
    decomposed = unicodedata.normalize("NFD", "Brücke über den Fluss")
    verdict = filter_text(f"{ENGLISH} {decomposed}", "en", FilterSettings(html="keep"))
    assert verdict.text.endswith(decomposed)
    assert remove_controls(remove_controls(text)) == remove_controls(text)


def test_control_characters_go_and_joiners_stay():
    assert (
        remove_controls("\ufeffSil\u00adben\u200b\x85\x1b, \u200dja\tund\n")
        == "Silben, \u200dja\tund\n"
    )


def test_lines_of_boilerplate_go_and_sentences_about_it_stay():
    line = "Alle Rechte vorbehalten."
    about = "Wer „alle Rechte vorbehalten“ schreibt, " + "meint damit das Urheberrecht, " * 8
    assert remove_boilerplate(f"{GERMAN}\n{line}\n{about}") == f"{GERMAN}\n{about}"
    for phrase in BOILERPLATE_PHRASES:
        assert any(root in phrase for root in BOILERPLATE_ROOTS), phrase


def test_a_page_of_boilerplate_is_dropped():
    text = f"{GERMAN[:60]}\nWir verwenden Cookies, damit die Seite läuft.\nDatenschutzerklärung"
    assert filter_text(text, "de", FilterSettings()).reason == "boilerplate"


@pytest.mark.parametrize("text", ["", "  \n", "\x1b"])
def test_an_empty_text_is_dropped(text):
    assert filter_text(text, "de", FilterSettings()).reason == "empty"


def test_html_becomes_its_text():
    pytest.importorskip("trafilatura")
    verdict = filter_text(PAGE, "de", FilterSettings())
    assert GERMAN in verdict.text
    assert "<" not in verdict.text
    assert (verdict.reason, verdict.changes) == (None, ("markup",))


def test_a_text_that_shows_tags_is_no_page():
    text = (
        f"{ENGLISH} A paragraph stands between <p> and </p>, a table between <table> and </table>."
    )
    assert not is_page(text)
    assert strip_markup(text, "auto") == text
    assert is_page(PAGE)
    assert strip_markup(PAGE, "keep") == PAGE


def test_the_language_is_told_from_its_neighbours():
    pytest.importorskip("py3langid")
    assert identify_language(TextStatistics(GERMAN), "en") == "de"
    assert identify_language(TextStatistics(ENGLISH), "de") == "en"
    assert settle_by_words(TextStatistics(DUTCH).counts) is None
    assert settle_by_words(TextStatistics(FRISIAN).counts) is None
    assert identify_language(TextStatistics(DUTCH), "de") == "nl"


def test_a_short_text_keeps_its_label():
    assert identify_language(TextStatistics("the old bridge"), "de") == "de"


def test_languages_drop_others_and_mend_labels():
    pytest.importorskip("py3langid")
    only_german = FilterSettings(languages=("de",))
    assert filter_text(DUTCH, "de", only_german).reason == "language"
    assert filter_text(ENGLISH, "de", only_german).reason == "language"
    both = filter_text(ENGLISH, "de", FilterSettings(languages=("de", "en")))
    assert (both.reason, both.language, both.changes) == (None, "en", ("language",))
    assert filter_text(GERMAN, "my-novel", FilterSettings()).language == "de"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("write to jan.k+x@mail.example.org.", "write to <email>."),
        ("from 93.184.216.34 to 192.168.0.1", "from <ip> to 192.168.0.1"),
        ("version 1.2.3.4.5 stays", "version 1.2.3.4.5 stays"),
        ("IBAN DE89 3704 0044 0532 0130 00, bitte", "IBAN <iban>, bitte"),
        ("IBAN DE88 3704 0044 0532 0130 00, bitte", "IBAN DE88 3704 0044 0532 0130 00, bitte"),
        ("card 4111 1111 1111 1111 ok", "card <card> ok"),
        ("card 4111 1111 1111 1112 ok", "card 4111 1111 1111 1112 ok"),
        ("Karte 4111 1111 1111 1111 12/27", "Karte <card> 12/27"),
        ("card 4111 1111 1111 1111 123", "card <card> 123"),
        ("3782 822463 10005 4111 1111 1111 1111", "<card> <card>"),
        ("IBAN: AT61 1904 3002 3457 3201 BIC: OPSKATWW", "IBAN: <iban> BIC: OPSKATWW"),
        ("ES91 2100 0418 4502 0005 1332 BIC CAIXESBB", "<iban> BIC CAIXESBB"),
        ("BE68 5390 0754 7034 GKCC BEBB", "<iban> GKCC BEBB"),
        ("AT61 1904 3002 3457 3201 DE89 3704 0044 0532 0130 00", "<iban> <iban>"),
        ("1 2 3 4 5 6 7 8 9 8 7 6 6 1 2 3", "1 2 3 4 5 6 7 8 9 8 7 6 6 1 2 3"),
        ("ruf +49 30 1234567 an", "ruf <phone> an"),
        ("im Jahr 2024, Seite 1234567", "im Jahr 2024, Seite 1234567"),
    ],
)
def test_personal_data_with_a_checked_form_are_replaced(text, scrubbed):
    assert scrub_pii(text) == scrubbed


@given(text=st.text())
def test_any_text_is_scrubbed_once_and_for_all(text):
    assert scrub_pii(scrub_pii(text)) == scrub_pii(text)


def test_personal_data_stay_unless_asked():
    text = f"{ENGLISH} Write to jan@mail.example.org."
    assert filter_text(text, "en", FilterSettings()).text == text
    scrubbed = filter_text(text, "en", FilterSettings(is_scrubbed=True))
    assert scrubbed.text.endswith("Write to <email>.")
    assert scrubbed.changes == ("pii",)


def test_a_missing_library_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(DataError, match=r"HTML needs trafilatura.*pip install -e '.\[data\]'"):
        strip_markup(PAGE, "auto")
