from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from helix.data.packing import Segment, cut_segment, pack_row, whole_document

LENGTHS = st.lists(st.integers(2, 40), max_size=30)


def all_documents(lengths):
    return [whole_document("x", document, n_ids) for document, n_ids in enumerate(lengths)]


def pack_rows(documents, *, n_context):
    """Pack all the documents; the last row may be short."""
    remaining, carry = iter(documents), None
    while True:
        row, carry = pack_row(remaining, carry, n_context=n_context)
        if not row:
            return
        yield row


def pairs_of(segments):
    return [
        (segment.document, pair)
        for segment in segments
        for pair in range(segment.first_pair, segment.first_pair + segment.n_pairs)
    ]


@given(lengths=LENGTHS, n_context=st.integers(1, 50))
def test_packing_loses_no_pair_and_invents_none(lengths, n_context):
    rows = list(pack_rows(all_documents(lengths), n_context=n_context))
    packed = [pair for row in rows for pair in pairs_of(row)]
    assert packed == pairs_of(all_documents(lengths))


@given(lengths=LENGTHS, n_context=st.integers(1, 50))
def test_every_row_but_the_last_holds_exactly_n_context_pairs(lengths, n_context):
    n_pairs = [
        sum(segment.n_pairs for segment in row)
        for row in pack_rows(all_documents(lengths), n_context=n_context)
    ]
    assert all(n == n_context for n in n_pairs[:-1])
    assert all(0 < n <= n_context for n in n_pairs)


@given(lengths=LENGTHS.filter(len), n_context=st.integers(1, 50), n_rows=st.integers(0, 20))
def test_packing_goes_on_from_a_carry_as_if_never_stopped(lengths, n_context, n_rows):
    def endless():
        return (whole_document("x", i, lengths[i % len(lengths)]) for i in count())

    documents, carry, drawn = endless(), None, []
    for _ in range(n_rows + 3):
        row, carry = pack_row(documents, carry, n_context=n_context)
        drawn.append(row)
    documents, carry = endless(), None
    for _ in range(n_rows):
        row, carry = pack_row(documents, carry, n_context=n_context)
    for expected in drawn[n_rows:]:
        row, carry = pack_row(documents, carry, n_context=n_context)
        assert row == expected


@given(n_ids=st.integers(2, 40), at=st.integers(1, 40))
def test_cut_segments_join_to_the_whole(n_ids, at):
    whole = whole_document("x", 3, n_ids)
    first, rest = cut_segment(whole, at)
    assert pairs_of([first] + ([rest] if rest else [])) == pairs_of([whole])
    assert rest is None or rest.n_pairs > 0


def test_a_document_cut_at_a_row_end_goes_on_in_the_next_row():
    rows = list(pack_rows([Segment("x", 0, 0, 5), Segment("x", 1, 0, 2)], n_context=4))
    assert rows == [[Segment("x", 0, 0, 4)], [Segment("x", 0, 4, 1), Segment("x", 1, 0, 2)]]
