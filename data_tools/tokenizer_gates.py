"""Gates of a tokenizer: what a vocabulary must do on text that it was not trained on.

Few tokens for 100 words, no unknown piece, every text back as it was, a chat template that no
text can break out of. Words are what white space parts, as in `helix data stats`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from data_tools.documents import Document
from helix.chat import SYMBOLS, Call, ChatTemplate, Message
from helix.data import DataError
from helix.data.progress import show_progress
from helix.tokenizer import PROBE, SentencePieceTokenizer, TokenizerError

Symbols = Literal["chat", "none"]
# tokens per 100 words of prose that a vocabulary of 200,000 pieces, trained on 15 GB, keeps with
# a tenth to spare (123.0 English, 133.8 German)
DEFAULT_LIMITS: Mapping[str, float] = {"de": 150.0, "en": 135.0}
LIMITED_FROM_N_VOCAB = 128_000  # fewer pieces cannot reach those limits: figures are shown
MIN_WORDS = 1000  # fewer say little of a language
BATCH_DOCUMENTS = 256
N_CHATS = 20
CHAT_CHARACTERS = 500  # of a text that is put into every field of a chat

SPELLED = "".join(SYMBOLS)
BATTERY = (
    PROBE,
    SPELLED,
    " ".join(SYMBOLS),
    "<s></s><unk><pad><0x0A>",
    "",
    " ",
    "\n",
    " \n \t\r\n\n ",
    "".join(map(chr, range(0x100))),
    # a sample of all Unicode, surrogates left out
    "".join(chr(c) for c in range(0, 0x110000, 997) if not 0xD800 <= c < 0xE000),
    "\ufeff\ufffd\ufffe\uffff\U0010ffff\u2028\u2029\u200b\u00ad",
    "a\u0308 \u00e4 \ufb01 \u00b2 \u2460 \uff21 \u212b",  # what normalisation would change
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "def f(x):\n\tif x:\n\t    return 'Größe: 1984,50 €'\n",
)


@dataclass(frozen=True, kw_only=True)
class TextUse:
    """How a vocabulary spends its ids on the documents of a language, or of a domain in it.

    Attributes:
        domain: Empty for the whole language.
        n_unknown: Ids of the unknown piece.
    """

    language: str
    domain: str
    n_documents: int
    n_bytes: int
    n_words: int
    n_tokens: int
    n_unknown: int

    @property
    def tokens_per_byte(self) -> float:
        """Ids for a byte of UTF-8."""
        return self.n_tokens / max(self.n_bytes, 1)

    @property
    def tokens_per_100_words(self) -> float:
        """Ids for a hundred words."""
        return 100 * self.n_tokens / max(self.n_words, 1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the held-out text showed.

    Attributes:
        uses: Of each language and domain, in order.
        used_share: Ids that occurred, of all ids.
        changed: Names of documents that did not come back as they were.
    """

    uses: tuple[TextUse, ...]
    used_share: float
    changed: tuple[str, ...]

    def language(self, name: str, domains: Sequence[str] = ()) -> TextUse:
        """Add up a language, or some domains of it."""
        chosen = [
            use
            for use in self.uses
            if use.language == name and (not domains or use.domain in domains)
        ]
        return add_up(chosen, language=name, domain="")

    @property
    def languages(self) -> tuple[TextUse, ...]:
        """Each language, added up."""
        return tuple(self.language(name) for name in sorted({use.language for use in self.uses}))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A condition, what was found, and whether it holds."""

    name: str
    found: str
    has_passed: bool


def measure(tokenizer: SentencePieceTokenizer, documents: Iterable[Document]) -> Measured:
    """Encode documents and decode them again; they are read once, a batch at a time."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    used: set[int] = set()
    changed: list[str] = []
    unknown = tokenizer.processor.unk_id()
    for batch in batches(documents):
        encoded = tokenizer.encode_many([document.text for document in batch])
        for document, ids in zip(batch, encoded, strict=True):
            used.update(ids)
            if tokenizer.decode(ids) != document.text:
                changed.append(f"{document.source}/{document.id}")
            key = document.language, document.domain
            counts.setdefault(key, Counter()).update(
                n_documents=1,
                n_bytes=len(document.text.encode()),
                n_words=len(document.text.split()),
                n_tokens=len(ids),
                n_unknown=ids.count(unknown),
            )
    uses = tuple(
        TextUse(language=language, domain=domain, **counts[language, domain])
        for language, domain in sorted(counts)
    )
    return Measured(
        uses=uses, used_share=len(used) / tokenizer.n_vocab, changed=tuple(changed[:10])
    )


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Cut documents into batches, with a progress bar where their number is known."""
    shown = show_progress(documents, "measuring") if isinstance(documents, list) else documents
    rest = iter(shown)
    while batch := list(islice(rest, BATCH_DOCUMENTS)):
        yield batch


def add_up(uses: Sequence[TextUse], *, language: str, domain: str) -> TextUse:
    """Add up the counts of several."""
    names = ("n_documents", "n_bytes", "n_words", "n_tokens", "n_unknown")
    totals = {name: sum(getattr(use, name) for use in uses) for name in names}
    return TextUse(language=language, domain=domain, **totals)


def check_gates(
    tokenizer: SentencePieceTokenizer,
    measured: Measured,
    *,
    limits: Mapping[str, float],
    domains: Sequence[str] = (),
    languages: Iterable[str] = (),
    symbols: Symbols = "chat",
    texts: Sequence[str] = (),
) -> list[Gate]:
    """Hold a tokenizer to its gates.

    Args:
        limits: Tokens per 100 words at the most, by language.
        domains: Domains that the limits are held to; all where none is named.
        languages: Languages that must have been measured if they have a limit.
        texts: Some held-out text, to put into chats.
    """
    gates = [
        check_limit(measured.language(name, domains), limit, domains)
        for name, limit in limits.items()
        if name in languages
    ]
    gates += [check_unknown(measured), check_round_trip(tokenizer, measured)]
    if symbols == "chat":
        gates += [check_symbols(tokenizer), check_spelled(tokenizer), check_chat(tokenizer, texts)]
    return gates


def check_limit(use: TextUse, limit: float, domains: Sequence[str]) -> Gate:
    """Hold a language, or some domains of it, to its tokens per 100 words."""
    where = f" in {', '.join(domains)}" if domains else ""
    name = f"{use.language}{where}: at most {limit:g} tokens per 100 words"
    if use.n_words < MIN_WORDS:
        found = (
            f"only {use.n_words} words held out; give more text or a larger held_out_share, or "
            "correct the name"
        )
        return Gate(name=name, found=found, has_passed=False)
    spent = use.tokens_per_100_words
    return Gate(name=name, found=f"{spent:.1f}", has_passed=spent <= limit)


def check_unknown(measured: Measured) -> Gate:
    """Hold the tokenizer to no unknown piece."""
    n_unknown = sum(use.n_unknown for use in measured.uses)
    return Gate(name="no unknown piece", found=str(n_unknown), has_passed=n_unknown == 0)


def check_round_trip(tokenizer: SentencePieceTokenizer, measured: Measured) -> Gate:
    """Hold the tokenizer to giving back every held-out document and the battery."""
    changed = list(measured.changed)
    changed += [
        f"battery text {number}"
        for number, text in enumerate(BATTERY)
        if tokenizer.decode(tokenizer.encode(text)) != text
    ]
    n_documents = sum(use.n_documents for use in measured.uses)
    return Gate(
        name="every text comes back byte for byte",
        found=", ".join(changed) or f"{n_documents} documents, {len(BATTERY)} hard texts",
        has_passed=not changed,
    )


def check_symbols(tokenizer: SentencePieceTokenizer) -> Gate:
    """Hold the tokenizer to having each symbol, with an id of its own."""
    missing = [name for name in SYMBOLS if name not in tokenizer.symbol_ids]
    n_ids = len({tokenizer.symbol_ids.get(name) for name in SYMBOLS})
    return Gate(
        name=f"{len(SYMBOLS)} reserved symbols",
        found=f"missing: {', '.join(missing)}" if missing else f"{n_ids} ids",
        has_passed=not missing and n_ids == len(SYMBOLS),
    )


def check_spelled(tokenizer: SentencePieceTokenizer) -> Gate:
    """Hold the tokenizer to text that spells a symbol staying text."""
    reserved = set(tokenizer.symbol_ids.values())
    forged = [
        name
        for name in SYMBOLS
        if reserved & {*tokenizer.encode(name), *tokenizer.encode(f"a{name} {name}\n")}
    ]
    return Gate(
        name="text that spells a symbol stays text",
        found=", ".join(forged) or "none forged",
        has_passed=not forged,
    )


def check_chat(tokenizer: SentencePieceTokenizer, texts: Sequence[str]) -> Gate:
    """Hold the chat template to giving back its messages."""
    name = "chats come back byte for byte"
    try:
        template = ChatTemplate(tokenizer)
    except TokenizerError as error:
        return Gate(name=name, found=str(error), has_passed=False)
    texts = [*BATTERY, *texts[:N_CHATS]]
    chats = [make_chat(text[:CHAT_CHARACTERS]) for text in texts]
    changed = [chat for chat in chats if not comes_back(template, chat)]
    return Gate(
        name=name,
        found=f"{len(changed)} of {len(chats)} changed" if changed else f"{len(chats)} chats",
        has_passed=not changed,
    )


def comes_back(template: ChatTemplate, chat: tuple[Message, ...]) -> bool:
    """Tell whether a chat is the same after encoding and decoding."""
    try:
        return template.decode(template.encode(chat).ids) == chat
    except TokenizerError:  # a text ended a message
        return False


def make_chat(text: str) -> tuple[Message, ...]:
    """Put a text into every field of a chat."""
    call = Call(name=text, id=text, arguments=text)
    return (
        Message(role="system", content=text),
        Message(role="user", content=text),
        Message(role="assistant", thinking=text, content=text, calls=(call, call)),
        Message(role="tool", name=text, id=text, content=text),
        Message(role="assistant", content=text),
    )


def read_limits(text: str | None, n_vocab: int) -> dict[str, float]:
    """Read limits such as "de:150,en:135"; None gives the defaults that suit `n_vocab`.

    Raises:
        ValueError: An entry is not a language, a colon and a number above 0.
    """
    if text is None:
        return dict(DEFAULT_LIMITS) if n_vocab >= LIMITED_FROM_N_VOCAB else {}
    limits: dict[str, float] = {}
    for entry in filter(None, text.split(",")):
        language, _, number = entry.partition(":")
        try:
            limits[language.strip()] = float(number)
        except ValueError:
            limits[language.strip()] = 0.0
        if not language.strip() or not limits[language.strip()] > 0:
            raise ValueError(
                f"limits={text}: write a language and its tokens per 100 words, as in "
                "limits=de:150,en:135"
            )
    return limits


def require(gates: Sequence[Gate], what: str) -> None:
    """Refuse a tokenizer that failed a gate.

    Raises:
        DataError: Names each gate that failed, and what was found.
    """
    failed = [f"{gate.name} (found: {gate.found})" for gate in gates if not gate.has_passed]
    if failed:
        raise DataError(
            f"{what}: failed {len(failed)} of {len(gates)} gates: {'; '.join(failed)}; gates=false "
            "takes a model as it is"
        )
