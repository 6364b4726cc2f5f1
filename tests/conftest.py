"""Fixtures of all tests: fresh seeds, memory poisoned with NaN, a corpus, two ranks."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from helix.config import RunConfig, load
from helix.presets import PRESETS
from helix.tokenizer import ByteTokenizer
from tests.ranks import Ranks

# No test is timed: machines are shared. CI tries the same examples each time, so that its verdict
# on a commit is one; every other run tries new ones.
settings.register_profile("helix", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("helix")
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it brings

TINY_MODEL = (
    "preset=hybrid_tiny",
    "tokenizer.kind=byte",
    "model.n_vocab=258",
    "model.d_model=32",
    "model.d_ffn=48",
    "model.mamba2={d_state: 8, d_head: 16, chunk_tokens: 16}",
    "model.gla={n_heads: 2, decay_rank: 4, chunk_tokens: 16}",
    "model.sparse={n_heads: 2, window_tokens: 16, n_global: 2}",
    "model.attention={n_heads: 2}",
    "model.loss_chunk_rows=64",
    "data.n_context=32",
    "training.n_steps=6",
    "training.batch_rows=4",
    "training.micro_batch_rows=4",
    "training.validation_rows=4",
    "training.checkpoint_every_steps=3",
    "schedule.n_warmup_steps=2",
)


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden and print what changed"
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Fill torch.empty with NaN, so that a result which reads unwritten memory fails its test."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A small dataset of bytes in two languages."""
    words = {
        source: sentence.split()
        for source, sentence in (
            ("de", "der Fluss fließt langsam über die grünen Wiesen und die Brücke trägt ihn"),
            ("en", "the river flows slowly over the green fields and the bridge carries it"),
        )
    }
    documents = [
        Document(
            id=f"{source}-{number}",
            text=" ".join(
                words[source][(number * step) % 13] for step in range(1, 5 + number % 23)
            ),
            source=source,
            language=source,
            licence="CC0-1.0",
        )
        for source in words
        for number in range(1, 60)
    ]
    path = tmp_path_factory.mktemp("corpus") / "data"
    make_shards(documents, ByteTokenizer(), path, validation_fraction=0.1)
    return path


@pytest.fixture
def tiny_run(corpus, tmp_path):
    """Make the config of a run of some seconds; words override it."""

    def make(*words: str, run_dir: str = "run") -> RunConfig:
        return tiny_config(*words, run_dir=tmp_path / run_dir, data_path=corpus)

    return make


def tiny_config(*words: str, run_dir: Path, data_path: Path) -> RunConfig:
    overridden = {word.partition("=")[0] for word in words}
    kept = [word for word in TINY_MODEL if word.partition("=")[0] not in overridden]
    return load([*kept, f"run_dir={run_dir}", f"data.path={data_path}", *words], PRESETS)


@pytest.fixture(scope="session")
def trained_run(corpus, tmp_path_factory):
    """Make the config of a small run that has ended. Read its folder; do not change it."""
    from helix.training.trainer import train

    config = tiny_config(
        "training.n_steps=20",
        "training.validate_every_steps=10",
        run_dir=tmp_path_factory.mktemp("trained") / "run",
        data_path=corpus,
    )
    assert train(config) == 0
    return config


class RankPool:
    """Starts two ranks when they are first asked for, and again after a test broke them."""

    def __init__(self) -> None:
        self.ranks: Ranks | None = None

    def run(self, function, *arguments):
        if self.ranks is None or not self.ranks.is_alive:
            self.ranks = Ranks(2)
        return self.ranks.run(function, *arguments)


@pytest.fixture(scope="session")
def two_ranks():
    pool = RankPool()
    yield pool
    if pool.ranks is not None:
        pool.ranks.stop()
