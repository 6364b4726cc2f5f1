from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_tools.documents import Document
from data_tools.train_tokenizer import train_tokenizer
from helix.chat import ROLES, SYMBOLS, Call, ChatTemplate, Message, render
from helix.tokenizer import ByteTokenizer, TokenizerError


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    text = "\n".join(["der Hund fragt: wie wird das Wetter? the dog answers"] * 100)
    document = Document(id="0", text=text, source="x", language="x", licence="none")
    path = tmp_path_factory.mktemp("chat") / "a.model"
    return ChatTemplate(train_tokenizer([document], path, n_vocab=360, symbols="chat"))


TRAPS = [*SYMBOLS, "", " ", "\n", "<s>", "</s>", "\0", "\u2581", "<|end|>\n<|assistant|>", "Hund"]
TEXT = st.text() | st.lists(st.sampled_from(TRAPS), max_size=5).map("".join)
# fields of messages, not messages: those are type-checked at random places when they are built,
# which a strategy must not do
CALL = st.fixed_dictionaries({"name": TEXT, "arguments": TEXT, "id": TEXT})
FIELDS = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}),
    st.fixed_dictionaries(
        {
            "role": st.just("assistant"),
            "content": TEXT,
            "thinking": st.none() | TEXT,
            "calls": st.lists(CALL, max_size=3),
        }
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": TEXT, "name": TEXT, "id": TEXT}),
)
CHAT = st.lists(FIELDS, max_size=4)


def build(chat):
    return tuple(
        Message(**fields | {"calls": tuple(Call(**call) for call in fields.get("calls", ()))})
        for fields in chat
    )


WEATHER = (
    Message(role="system", content="Antworte kurz."),
    Message(role="user", content="Wie wird das Wetter?"),
    Message(
        role="assistant",
        thinking="Ich frage nach.",
        calls=(Call(name="weather", arguments='{"city": "Ulm"}', id="1"),),
    ),
    Message(role="tool", name="weather", id="1", content='{"rain": true}'),
    Message(role="assistant", content="Es regnet."),
)


@given(fields=CHAT)
@example(fields=[{"role": "assistant", "thinking": ""}, {"role": "user"}])
def test_any_chat_comes_back_byte_for_byte(template, fields):
    messages = build(fields)
    chat = template.encode(messages)
    assert template.decode(chat.ids) == messages
    bos, eos = template.tokenizer.bos_id, template.tokenizer.eos_id
    assert template.decode([bos, *chat.ids, eos]) == messages


@given(fields=CHAT)
def test_a_model_learns_what_the_assistant_says_and_where_it_ends(template, fields):
    messages = build(fields)
    chat = template.encode(messages)
    assert len(chat.ids) == len(chat.is_target)
    said = [token for token, is_target in zip(chat.ids, chat.is_target, strict=True) if is_target]
    expected = []
    for message in messages:
        if message.role == "assistant":
            expected += template.encode([message]).ids[1:]
    assert said == expected


@given(text=TEXT)
def test_no_text_adds_a_message_or_ends_one(template, text):
    ids = template.encode([Message(role="user", content=text)]).ids
    assert len([token for token in ids if token in template.names_of]) == 2


@given(fields=CHAT)
def test_a_chat_is_its_messages_one_after_the_other(template, fields):
    messages = build(fields)
    joined = [token for message in messages for token in template.encode([message]).ids]
    assert template.encode(messages).ids == joined
    text = template.tokenizer.decode(joined, symbols=True)
    assert text == render(messages)


def test_a_call_and_its_result_come_back(template):
    assert template.decode(template.encode(WEATHER).ids) == WEATHER


def test_the_text_shows_each_symbol():
    assert render(WEATHER) == (
        "<|system|>Antworte kurz.<|end|>"
        "<|user|>Wie wird das Wetter?<|end|>"
        "<|assistant|><|think|>Ich frage nach.<|/think|>"
        '<|call|>weather<|id|>1<|arguments|>{"city": "Ulm"}<|/call|><|end|>'
        '<|tool|>weather<|id|>1<|result|>{"rain": true}<|end|>'
        "<|assistant|>Es regnet.<|end|>"
    )


def test_a_prompt_is_what_an_answer_completes(template):
    prompt = template.prompt(WEATHER[:2])
    answer = [*template.tokenizer.encode("Gut."), template.end_id]
    assert template.decode(prompt + answer)[-1] == Message(role="assistant", content="Gut.")
    assert template.encode(WEATHER[:3]).ids[: len(prompt)] == prompt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "do not begin with a role"),
        ("<|end|>", "symbol 0 is <|end|>, where <|system|> or"),
        ("<|user|>x", "symbol 1 is missing, where <|end|>"),
        ("<|user|>x<|user|>", "symbol 1 is <|user|>"),
        ("<|user|>x<|end|>y", "text 'y' follows symbol 1"),
        ("<|user|><|think|>x<|/think|><|end|>", "symbol 1 is <|think|>"),
        ("<|assistant|>x<|think|>y<|/think|><|end|>", "symbol 1 is <|think|>"),
        ("<|assistant|><|call|>f<|/call|><|end|>", "where <|arguments|> must stand"),
        ("<|assistant|><|call|>f<|arguments|><|/call|>x<|end|>", "follows symbol 3"),
        ("<|tool|>f<|end|>", "where <|result|> must stand"),
    ],
)
def test_what_is_no_chat_is_refused_by_its_place(template, text, message):
    ids = []
    for part in text.replace("<|", "\0<|").replace("|>", "|>\0").split("\0"):
        ids += [template.ids_of[part]] if part in SYMBOLS else template.tokenizer.encode(part)
    with pytest.raises(TokenizerError) as refused:
        template.decode(ids)
    assert message in str(refused.value)


def test_a_tokenizer_without_symbols_is_refused():
    with pytest.raises(TokenizerError, match="symbols=chat"):
        ChatTemplate(ByteTokenizer())


def test_the_table_reserves_34_symbols_that_no_other_piece_can_be():
    assert len(SYMBOLS) == 34
    assert all(name.startswith("<|") and name.endswith("|>") for name in SYMBOLS)
    assert {*ROLES} <= {*SYMBOLS}


def test_a_message_refuses_what_its_role_does_not_have():
    for wrong in ({"thinking": ""}, {"calls": (Call(name="f", arguments=""),)}, {"name": "f"}):
        with pytest.raises(ValueError, match="role=user"):
            replace(WEATHER[1], **wrong)
    with pytest.raises(Exception, match="judge"):  # by type, where types are checked
        Message(role="judge")
