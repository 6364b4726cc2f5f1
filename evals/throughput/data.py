"""Shards to train on while something is measured: the run's own, or a Markov chain's.

The chain: each of up to 4096 tokens is followed by one of four, with probabilities 0.7, 0.1, 0.1
and 0.1. A model that has learnt it loses 0.94 nats a token; one that knows only which tokens there
are, ln 4096 = 8.3.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from helix import distributed
from helix.config import ConfigError, RunConfig
from helix.data import DataConfig, Loader, build_loader
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training.engine import join_ranks

N_STATES = 4096
PROBABILITIES = (0.7, 0.1, 0.1, 0.1)
MOST_TOKENS = 4_000_000  # of the chain; a loader begins again after them
LoaderOf = Callable[[int], Loader]  # rows of a global batch to a loader that stands at the start


class NumberTokenizer(Tokenizer):
    """Reads ids written as numbers, so that shards can hold any ids."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.bos_id, self.eos_id = n_vocab - 2, n_vocab - 1
        self.fingerprint = hashlib.sha256(f"numbers below {n_vocab}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Read numbers with blanks between them."""
        return [int(word) for word in text.split()]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Read each text."""
        return [self.encode(text) for text in texts]

    def token_bytes(self, token: int) -> bytes:
        """Write the number."""
        return f"{token} ".encode()


def name_of(run: RunConfig) -> str:
    """Say what there is to learn, for the table's note."""
    return run.data.path or f"a Markov chain of up to {N_STATES} tokens (evals/throughput/data.py)"


@contextlib.contextmanager
def training_data(run: RunConfig, *, n_tokens: int) -> Iterator[LoaderOf]:
    """Open the run's shards, or write some for as long as they are needed; a collective call."""
    join_ranks()
    if run.data.path:
        tokenizer = load_tokenizer(run.tokenizer)
        if tokenizer.n_vocab > run.model.n_vocab:
            raise ConfigError(
                f"model.n_vocab={run.model.n_vocab}: the tokenizer has {tokenizer.n_vocab} entries"
            )
        yield partial(open_loader, run.data, tokenizer, run.seed)
        return
    tokenizer = NumberTokenizer(run.model.n_vocab)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shards"
        if distributed.is_main():
            documents = chain_documents(run, n_tokens=min(n_tokens, MOST_TOKENS))
            make_shards(documents, tokenizer, path, validation_fraction=0.0)
        data = DataConfig(path=distributed.from_main(str(path)), n_context=run.data.n_context)
        yield partial(open_loader, data, tokenizer, run.seed)
        distributed.barrier()


def open_loader(data: DataConfig, tokenizer: Tokenizer, seed: int, batch_rows: int) -> Loader:
    """Open shards at their first row, for this rank."""
    return build_loader(
        data,
        tokenizer,
        batch_rows=batch_rows,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        seed=seed,
    )


def chain_documents(run: RunConfig, *, n_tokens: int) -> list[Document]:
    """Walk the chain: documents of a third of a row each."""
    n_ids = max(8, run.data.n_context // 3)
    ids = walk_chain(-(-n_tokens // n_ids), n_ids, n_vocab=run.model.n_vocab - 2)
    return [
        Document(
            id=str(number),
            text=" ".join(map(str, row)),
            source="chain",
            language="none",
            licence="CC0-1.0",
        )
        for number, row in enumerate(ids.tolist())
    ]


def walk_chain(n_documents: int, n_ids: int, *, n_vocab: int) -> np.ndarray:
    """Draw documents from the chain, its tokens spread evenly over the vocabulary."""
    random = np.random.default_rng(0)
    n_states = min(N_STATES, n_vocab)
    followers = random.integers(n_states, size=(n_states, len(PROBABILITIES)))
    states = np.empty((n_documents, n_ids), np.int64)
    states[:, 0] = random.integers(n_states, size=n_documents)
    for position in range(1, n_ids):
        chosen = random.choice(len(PROBABILITIES), size=n_documents, p=PROBABILITIES)
        states[:, position] = followers[states[:, position - 1], chosen]
    return states * (n_vocab // n_states)
