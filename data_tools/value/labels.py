"""Labels: what people, or the domains of a corpus, say that documents are worth.

Without labels, the domain of a document stands in for them (`DOMAIN_SCORES`). A scorer made so
tells one thing: whether a text reads like running, explaining prose rather than like a list of
glosses or of quotes. It cannot tell whether a text is true, new, well written or worth knowing, it
knows the topics of the domains that it was made from, and all documents of a domain count alike.
On the small reference corpus it explains 0.9 of the variance of documents left out, and nothing of
that of whole sources left out (R2 -0.04, Spearman 0.18): use it on sources that it was trained on.
For a corpus that matters, label a few hundred documents of it by hand or by a judge.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_tools.documents import Document
from data_tools.value.smallest import Smallest
from helix.data import DataError

# 0 to 5; the domains are those of data_tools/corpus/recipes.py
DOMAIN_SCORES = {
    "encyclopaedic": 5.0,
    "handbook": 5.0,
    "history": 5.0,
    "science": 5.0,
    "literature": 4.0,
    "manual": 3.5,
    "help": 3.0,
    "fiction": 2.5,
    "quotes": 1.0,
    "dictionary": 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A text to train on, with its score."""

    text: str
    score: float
    source: str
    pair: str = ""


@dataclass
class Labels:
    """Scores by document, and texts that bring their own.

    Attributes:
        by_id: Scores by source and id; the source is empty where the row named none.
        by_text: Scores by hash of the text.
        texts: Those texts, by hash.
        sha256: Of the file.
    """

    by_id: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    by_text: dict[bytes, list[float]] = field(default_factory=dict)
    texts: dict[bytes, Example] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class LabelledSample:
    """What a scorer is trained on.

    Attributes:
        examples: In the order of their hashes, whatever the order of the documents.
        described: Where they are from, for the report.
    """

    examples: list[Example]
    described: dict[str, Any]


def read_labels(path: Path) -> Labels:
    """Read rows {"id": ..., "source": ..., "score": ...} or {"text": ..., "score": ...}.

    Several scores of one document are averaged.

    Raises:
        DataError: A row is no such row, or there is none.
    """
    labels = Labels()
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels={path}: cannot be read ({error}); give a .jsonl file") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            add_row(labels, line, where=f"labels={path}, line {number}")
    if not (labels.by_id or labels.by_text):
        raise DataError(f'labels={path}: no rows; write {{"id": ..., "score": ...}} on each line')
    labels.sha256 = hashlib.sha256(data).hexdigest()
    return labels


def add_row(labels: Labels, line: str, *, where: str) -> None:
    """Add one line of a file of labels."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object per line") from None
    score = row.get("score") if isinstance(row, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f'{where}: no score; write {{"id": ..., "score": 3.5}} on each line')
    named = {name: row.get(name) or "" for name in ("id", "source", "text", "pair")}
    wrong = [name for name, value in named.items() if not isinstance(value, str)]
    if wrong:
        raise DataError(f"{where}: {wrong[0]} must be a string, not {named[wrong[0]]!r}")
    if named["text"]:
        key = hash_text(named["text"])
        labels.by_text.setdefault(key, []).append(float(score))
        labels.texts[key] = Example(
            text=named["text"], score=0.0, source=named["source"], pair=named["pair"]
        )
    elif named["id"]:
        labels.by_id.setdefault((named["source"], named["id"]), []).append(float(score))
    else:
        raise DataError(f'{where}: names no document; give its "id" and "source", or its "text"')


def sample_by_labels(
    labels: Labels, documents: Iterable[Document], *, n_examples: int, path: str
) -> LabelledSample:
    """Join labels to the documents; of more than `n_examples`, a fair sample.

    Raises:
        DataError: No label has a document, or an id without a source has two.
    """
    chosen: Smallest[Example] = Smallest(n_examples)
    sources: dict[tuple[str, str], str] = {}  # of the documents found by id
    texts = dict(labels.texts)
    for document in documents:
        keys = [(document.source, document.id), ("", document.id)]
        scores = [score for key in keys for score in labels.by_id.get(key, ())]
        for key in keys:
            if key in labels.by_id and sources.setdefault(key, document.source) != document.source:
                raise DataError(
                    f"labels={path}: id {document.id!r} is in the sources {sources[key]!r} and "
                    f'{document.source!r}; name the "source" in the row'
                )
        if scores:
            offer(chosen, to_example(document, sum(scores) / len(scores)))
        elif (text_key := hash_text(document.text)) in texts:
            texts[text_key] = to_example(document, 0.0)  # so that its twin is known
    for key, example in texts.items():
        offer(chosen, replace(example, score=sum(labels.by_text[key]) / len(labels.by_text[key])))
    n_unmatched = len(labels.by_id) - len(sources)
    if not chosen.n_offered:
        raise DataError(
            f"labels={path}: none of its {n_unmatched} ids is in the inputs; give the files that "
            "were labelled, or rows with their text"
        )
    described = {
        "labels": labels.sha256,
        "n_labelled": chosen.n_offered,
        "n_labels_without_document": n_unmatched,
    }
    return LabelledSample(examples=chosen.items(), described=described)


def sample_by_domains(
    documents: Iterable[Document], *, n_examples: int, scores: Mapping[str, float] = DOMAIN_SCORES
) -> LabelledSample:
    """Label documents by their domains: as many of each domain, as far as there are so many.

    Raises:
        DataError: There are not two domains of different scores.
    """
    chosen: dict[str, Smallest[Example]] = {}
    for document in documents:
        if document.domain in scores:
            of_domain = chosen.setdefault(document.domain, Smallest(n_examples))
            offer(of_domain, to_example(document, scores[document.domain]))
    if len({scores[domain] for domain in chosen}) < 2:
        raise DataError(
            "the documents are of no two domains with different scores (found: "
            f"{', '.join(sorted(chosen))}; known: {', '.join(scores)}): give labels=FILE.jsonl "
            "with scores of some of them, or scorer=FILE of an earlier run"
        )
    n_each = n_examples // len(chosen)
    examples = [example for name in sorted(chosen) for example in chosen[name].items()[:n_each]]
    used = {name: min(n_each, len(chosen[name].items())) for name in sorted(chosen)}
    described = {
        "labels": "domains",
        "n_by_domain": used,
        "scores": {name: scores[name] for name in used},
    }
    return LabelledSample(examples=examples, described=described)


def to_example(document: Document, score: float) -> Example:
    """Make an example of a document."""
    return Example(text=document.text, score=score, source=document.source, pair=document.pair)


def offer(chosen: Smallest[Example], example: Example) -> None:
    """Offer an example under the hash of its text."""
    chosen.offer((hash_text(example.text), example.source, example.pair, example.score), example)


def hash_text(text: str) -> bytes:
    """Hash a text, whatever it holds."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
