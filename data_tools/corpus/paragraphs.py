"""Which paragraphs of a package are text in its language, and which come with every page."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

WORD = re.compile(r"[a-zäöüß]+")
NAVIGATION = re.compile(r"\[ ?(?:<|.*>|.* : ).*\]")  # [ << Chapter ], [ Up : Rhythms ]
SPACES = re.compile(r"\s+")
GERMAN_WORDS = """
    aber als am an auch auf aus bei bis das dass dem den der des die diese diesem diesen
    dieser dieses durch ein eine einem einen einer eines es für hat haben im ist kann können
    man mehr mit nach nicht noch nur oder sich sie sind so über um und vom von vor wenn werden
    wie wird wurde zu zum zur
"""
ENGLISH_WORDS = """
    a an and are as at be been but by can do for from had has have he his if into is it its
    may more not of on or should such than that the their there these they this to used was
    were when which will with would you your
"""
FUNCTION_WORDS = {
    "de": frozenset(GERMAN_WORDS.split()),
    "en": frozenset(ENGLISH_WORDS.split()),
}
N_WORDS_TO_JUDGE = 6
LEAST_LETTERS = 0.6  # share of letters and spaces: below are tables, code, numbers
REPEATED_CHARACTERS = 80  # a shorter line ("See also") may stand in many documents
BOILERPLATE_SHARE = 0.1  # of a package's documents, and in more than five of them
N_DOCUMENTS_TO_JUDGE = 10


def one_line(text: str) -> str:
    """Join the lines of a paragraph; all white space becomes single spaces."""
    return SPACES.sub(" ", text).strip()


def language_of(paragraph: str) -> str:
    """Tell "de" or "en" by the function words; empty where the paragraph does not say."""
    words = WORD.findall(paragraph.lower())
    if len(words) < N_WORDS_TO_JUDGE:
        return ""
    german, english = (
        sum(word in FUNCTION_WORDS[language] for word in words) for language in ("de", "en")
    )
    return "" if german == english else "de" if german > english else "en"


def is_text(paragraph: str, language: str) -> bool:
    """Tell whether a paragraph is words, in this language as far as one can tell."""
    if NAVIGATION.fullmatch(paragraph):
        return False
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    if len(paragraph) < 3 or letters < LEAST_LETTERS * len(paragraph) or "\ufffd" in paragraph:
        return False
    return language_of(paragraph) in ("", language) if language in FUNCTION_WORDS else True


def keep_text(paragraphs: Iterable[str], language: str) -> list[str]:
    """Keep the paragraphs that are text; of neighbours that are equal, one."""
    kept = [paragraph for paragraph in paragraphs if is_text(paragraph, language)]
    return [paragraph for paragraph, _ in groupby(kept)]


def drop_boilerplate(documents: Sequence[list[str]]) -> list[list[str]]:
    """Drop what stands on every tenth page of a package, and long paragraphs said before."""
    n_documents_with = Counter(text for document in documents for text in set(document))
    limit = max(5, BOILERPLATE_SHARE * len(documents))
    if len(documents) < N_DOCUMENTS_TO_JUDGE:
        limit = len(documents)
    seen: set[str] = set()
    return [
        [text for text in document if n_documents_with[text] <= limit and is_new(text, seen)]
        for document in documents
    ]


def is_new(paragraph: str, seen: set[str]) -> bool:
    """Tell whether a long paragraph comes for the first time, and remember it."""
    if len(paragraph) < REPEATED_CHARACTERS:
        return True
    is_first = paragraph not in seen
    seen.add(paragraph)
    return is_first
