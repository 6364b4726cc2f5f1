"""Chat: messages to ids and back, with the tokens that a model learns from.

    system, user      <|system|> content <|end|>
    assistant         <|assistant|> [<|think|> thinking <|/think|>] content {call} <|end|>
      call            <|call|> name [<|id|> id] <|arguments|> arguments <|/call|>
    tool              <|tool|> name [<|id|> id] <|result|> content <|end|>

The spaces above are for the eye: nothing stands between a symbol and its text. Symbols are
SentencePiece control pieces, which no text encodes to, so neither a corpus nor a user can forge
one by spelling it, and every field comes back as it was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from helix.tokenizer import Tokenizer, TokenizerError

# What each reserved symbol is for. The order is the order of ids in a vocabulary: only spares may
# be renamed, each in its place.
SYMBOLS = {
    "<|system|>": "begins what the operator says",
    "<|user|>": "begins what the user says",
    "<|assistant|>": "begins what the model says",
    "<|tool|>": "begins what a tool answers; its name follows",
    "<|end|>": "ends a message",
    "<|think|>": "begins reasoning before an answer",
    "<|/think|>": "ends it",
    "<|call|>": "begins a call of a tool; its name follows",
    "<|/call|>": "ends it",
    "<|arguments|>": "begins the arguments of a call, as JSON",
    "<|id|>": "begins the id that joins a call and its result",
    "<|result|>": "begins the content of a tool's answer",
    # not in the template above: for what a later training stage puts into content
    "<|tools|>": "begins the tools on offer, as JSON",
    "<|/tools|>": "ends them",
    "<|memory|>": "begins what is to be remembered",
    "<|/memory|>": "ends it",
    "<|recall|>": "begins what was remembered or retrieved",
    "<|/recall|>": "ends it",
    "<|lora|>": "begins the name of an adapter to load",
    "<|/lora|>": "ends it",
    "<|route|>": "begins the name of an expert or system to hand over to",
    "<|/route|>": "ends it",
    "<|image|>": "stands where an image's embeddings go",
    "<|audio|>": "stands where a sound's embeddings go",
    **{f"<|spare_{number}|>": "spare" for number in range(1, 11)},
}

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {f"<|{role}|>": role for role in get_args(Role)}  # by their symbols


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a tool.

    Attributes:
        arguments: As the model wrote them; JSON by convention, any text comes back.
        id: Names the call where several are open; empty where one is.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a chat.

    Attributes:
        thinking: Of an assistant, before its content; None where it did not think.
        calls: Of an assistant, after its content.
        name: Of the tool that answers.
        id: Of the call that a tool answers; empty where one is open.
    """

    role: Role
    content: str = ""
    thinking: str | None = None
    calls: tuple[Call, ...] = ()
    name: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES.values():
            raise ValueError(f"role={self.role}: give one of {', '.join(ROLES.values())}")
        if self.role != "assistant" and (self.thinking is not None or self.calls):
            raise ValueError(f"role={self.role}: only an assistant has thinking and calls")
        if self.role != "tool" and (self.name or self.id):
            raise ValueError(f"role={self.role}: only a tool has a name and an id")


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """A chat as ids, without bos and eos.

    Attributes:
        is_target: Whether a model learns to say the id at this place: all of an assistant's
            message after its role, its end included.
    """

    ids: list[int]
    is_target: list[bool]


Field = tuple[str, str]  # a symbol, and the text that follows it


class ChatTemplate:
    """Turn messages into ids and back.

    Raises:
        TokenizerError: The tokenizer has no symbols for chat.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids_of = {name: tokenizer.symbol_id(name) for name in SYMBOLS}
        self.names_of = {token: name for name, token in self.ids_of.items()}
        self.end_id = self.ids_of["<|end|>"]

    def encode(self, messages: Iterable[Message]) -> EncodedChat:
        """Turn messages into ids, and tell which of them are an assistant's."""
        ids: list[int] = []
        is_target: list[bool] = []
        for message in messages:
            of_message = self.encode_fields(message_fields(message))
            ids += of_message
            is_target += [False] + [message.role == "assistant"] * (len(of_message) - 1)
        return EncodedChat(ids=ids, is_target=is_target)

    def prompt(self, messages: Iterable[Message]) -> list[int]:
        """Give the ids after which a model answers; it ends its answer with `end_id`."""
        return [*self.encode(messages).ids, self.ids_of["<|assistant|>"]]

    def decode(self, ids: Sequence[int]) -> tuple[Message, ...]:
        """Turn ids into messages; a bos before them and an eos after them are passed over.

        Raises:
            TokenizerError: The ids are not of this template, as a model's may be.
        """
        ids = list(ids)
        ids = ids[ids[:1] == [self.tokenizer.bos_id] :]
        ids = ids[: len(ids) - (ids[-1:] == [self.tokenizer.eos_id])]
        reader = FieldReader(self.split_fields(ids))
        messages = []
        while reader.next_symbol:
            messages.append(read_message(reader))
        return tuple(messages)

    def encode_fields(self, fields: Iterable[Field]) -> list[int]:
        """Turn symbols and their texts into ids."""
        ids: list[int] = []
        for symbol, text in fields:
            ids.append(self.ids_of[symbol])
            ids += self.tokenizer.encode(text)
        return ids

    def split_fields(self, ids: Sequence[int]) -> list[Field]:
        """Cut ids before each symbol, and turn what follows it into text."""
        starts = [place for place, token in enumerate(ids) if token in self.names_of]
        if ids and starts[:1] != [0]:
            raise TokenizerError("not a chat: the ids do not begin with a role")
        return [
            (self.names_of[ids[start]], self.tokenizer.decode(ids[start + 1 : end]))
            for start, end in pairwise([*starts, len(ids)])
        ]


def render(messages: Iterable[Message]) -> str:
    """Write messages as text for a person to read; text that spells a symbol looks like one."""
    return "".join(
        symbol + text for message in messages for symbol, text in message_fields(message)
    )


def message_fields(message: Message) -> list[Field]:
    """Lay a message out as symbols and the texts that follow them."""
    role = f"<|{message.role}|>"
    if message.role == "tool":
        fields = [(role, message.name), *id_field(message.id), ("<|result|>", message.content)]
    elif message.thinking is not None:
        fields = [(role, ""), ("<|think|>", message.thinking), ("<|/think|>", message.content)]
    else:
        fields = [(role, message.content)]
    for call in message.calls:
        fields += [("<|call|>", call.name), *id_field(call.id)]
        fields += [("<|arguments|>", call.arguments), ("<|/call|>", "")]
    return [*fields, ("<|end|>", "")]


def id_field(name: str) -> list[Field]:
    """Give the field of an id, or none."""
    return [("<|id|>", name)] if name else []


class FieldReader:
    """Fields, read from the first to the last."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = fields
        self.place = 0

    @property
    def next_symbol(self) -> str:
        """The symbol that comes; empty at the end."""
        return self.fields[self.place][0] if self.place < len(self.fields) else ""

    def take(self, *allowed: str) -> str:
        """Read the next field, which begins with one of the allowed symbols; give its text."""
        if self.next_symbol not in allowed:
            raise TokenizerError(
                f"not a chat: symbol {self.place} is {self.next_symbol or 'missing'}, "
                f"where {' or '.join(allowed)} must stand"
            )
        self.place += 1
        return self.fields[self.place - 1][1]

    def take_if(self, symbol: str) -> str | None:
        """Read the next field if it begins with the symbol."""
        return self.take(symbol) if self.next_symbol == symbol else None

    def take_bare(self, symbol: str) -> None:
        """Read a symbol that no text may follow."""
        if text := self.take(symbol):
            raise TokenizerError(
                f"not a chat: text {text[:20]!r} follows symbol {self.place - 1}, {symbol}"
            )


def read_message(reader: FieldReader) -> Message:
    """Read one message."""
    symbol = reader.next_symbol
    text = reader.take(*ROLES)
    role = ROLES[symbol]
    if role == "tool":
        call_id = reader.take_if("<|id|>") or ""
        message = Message(role=role, name=text, id=call_id, content=reader.take("<|result|>"))
    elif role == "assistant":
        message = read_assistant(reader, text)
    else:
        message = Message(role=role, content=text)
    reader.take_bare("<|end|>")
    return message


def read_assistant(reader: FieldReader, content: str) -> Message:
    """Read what follows an assistant's role, up to the end."""
    thinking = None if content else reader.take_if("<|think|>")
    if thinking is not None:
        content = reader.take("<|/think|>")
    calls = []
    while reader.next_symbol == "<|call|>":
        calls.append(read_call(reader))
    return Message(role="assistant", content=content, thinking=thinking, calls=tuple(calls))


def read_call(reader: FieldReader) -> Call:
    """Read a call of a tool."""
    name = reader.take("<|call|>")
    call_id = reader.take_if("<|id|>") or ""
    call = Call(name=name, id=call_id, arguments=reader.take("<|arguments|>"))
    reader.take_bare("<|/call|>")
    return call
