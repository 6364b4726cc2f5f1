"""How fast token ids come off the disk: our stream beside webdataset, on the same documents.

One process, one pass over a copy of the documents that this machine's memory holds, CPU seconds.
webdataset reads our shards as they are, and a second folder written as its users write it: one
document a sample. It gives samples in the order in which they lie; our stream gives them shuffled
over the whole dataset, each checked, packed to rows with targets.
"""

import io
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset as wds
from webdataset.writer import TarWriter

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from helix.data import Dataset, Loader
from helix.tokenizer import Tokenizer

N_CONTEXT = 4096
BATCH_ROWS = 8
RESUME_AT = 0.9  # of an epoch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one way of reading did.

    Attributes:
        name: What was measured.
        megabytes_per_s: Of token ids, by CPU seconds of this process; median of the repeats.
        mega_tokens_per_s: The same in ids.
        resume_s: CPU seconds from opening to the first batch or document at 9/10 of an epoch.
    """

    name: str
    megabytes_per_s: float
    mega_tokens_per_s: float
    resume_s: float


@dataclass(frozen=True)
class Corpus:
    """The documents on disk, in both forms.

    Attributes:
        single: Tar with one document a sample.
    """

    dataset: Dataset
    single: Path

    @property
    def id_dtype(self) -> np.dtype:
        """Give the dtype of the ids on disk."""
        return np.dtype(self.dataset.manifest.id_dtype)

    @property
    def n_ids(self) -> int:
        """Count the ids, with bos and eos."""
        return sum(source.n_tokens for source in self.dataset.sources.values())


def write_corpus(documents: Sequence[Document], tokenizer: Tokenizer, folder: Path) -> Corpus:
    """Write documents as our shards and as webdataset's users write theirs."""
    dataset = make_shards(documents, tokenizer, folder / "shards", validation_fraction=0.0)
    single = folder / "single.tar"
    with single.open("wb") as stream:
        tar = TarWriter(stream, encoder=False)
        for source, index in dataset.indexes.items():
            for number in range(len(index)):
                content = io.BytesIO()
                np.save(content, dataset.read(source, number))
                tar.write({"__key__": f"{source}-{number:09d}", "npy": content.getvalue()})
        tar.close()
    return Corpus(dataset, single)


def compare_reading(
    documents: Sequence[Document], tokenizer: Tokenizer, folder: Path, *, n_repeats: int
) -> list[Reading]:
    """Measure each way of reading the documents.

    Args:
        folder: Where they are written to.
    """
    corpus = write_corpus(documents, tokenizer, folder)
    ways: dict[str, tuple[Callable[[Corpus], int], Callable[[Corpus], object]]] = {
        "ours: shuffled, checked, packed rows": (read_rows, resume_rows),
        "ours: shuffled, checked documents": (read_documents, resume_documents),
        "webdataset: our shards, cut into documents": (read_samples, resume_samples),
        "webdataset: one document a sample (.npy)": (read_single, resume_single),
    }
    readings = []
    for name, (read, resume) in ways.items():
        read(corpus)  # fills the page cache and imports what is imported late
        rates = []
        for _ in range(n_repeats):
            start = time.process_time()
            n_ids = read(corpus)
            rates.append(n_ids / (time.process_time() - start))
        rate = statistics.median(rates)
        start = time.process_time()
        resume(corpus)
        resume_s = time.process_time() - start
        readings.append(
            Reading(
                name=name,
                megabytes_per_s=rate * corpus.id_dtype.itemsize / 1e6,
                mega_tokens_per_s=rate / 1e6,
                resume_s=resume_s,
            )
        )
    return readings


def open_loader(corpus: Corpus) -> Loader:
    """Stand at the first row of the stream."""
    dataset = Dataset.open(corpus.dataset.path)
    return Loader(
        dataset,
        n_context=N_CONTEXT,
        weights={name: float(source.n_tokens) for name, source in dataset.sources.items()},
        batch_rows=BATCH_ROWS,
        rank=0,
        world_size=1,
        seed=0,
    )


def read_rows(corpus: Corpus) -> int:
    """Read about an epoch of batches; give the ids."""
    loader = open_loader(corpus)
    n_batches = max(corpus.n_ids // (BATCH_ROWS * N_CONTEXT), 1)
    return sum(loader.next().tokens.numel() for _ in range(n_batches))


def resume_rows(corpus: Corpus) -> object:
    """Go to a row deep in the epoch and read a batch."""
    loader = open_loader(corpus)
    loader.go_to_row(int(RESUME_AT * corpus.n_ids / N_CONTEXT))
    return loader.next()


def shuffled(corpus: Corpus) -> Iterator[tuple[str, int]]:
    """Yield the documents of each source in a fixed random order."""
    for source, index in corpus.dataset.indexes.items():
        for number in np.random.default_rng(0).permutation(len(index)).tolist():
            yield source, number


def read_documents(corpus: Corpus) -> int:
    """Read all documents, one by one, in a random order; give the ids."""
    return sum(len(corpus.dataset.read(*place)) for place in shuffled(corpus))


def resume_documents(corpus: Corpus) -> object:
    """Open the dataset and read a document deep in the epoch."""
    dataset = Dataset.open(corpus.dataset.path)
    places = list(shuffled(corpus))
    return dataset.read(*places[int(RESUME_AT * len(places))])


def iterate_samples(files: Sequence[Path]) -> Iterator[dict]:
    """Iterate over tars as webdataset does; it leaves the last file for Python to close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tars = [str(file) for file in files]
        yield from wds.WebDataset(tars, shardshuffle=False)  # pyright: ignore[reportAttributeAccessIssue]


def our_shards(corpus: Corpus) -> list[Path]:
    """List the tars of our form."""
    sources = corpus.dataset.sources.values()
    return [corpus.dataset.path / shard.file for source in sources for shard in source.shards]


def cut_samples(corpus: Corpus) -> Iterator[np.ndarray]:
    """Yield each document of our shards, read by webdataset."""
    for sample in iterate_samples(our_shards(corpus)):
        ids = np.frombuffer(sample["tokens"], corpus.id_dtype)
        first = 0
        for facts in json.loads(sample["json"]):
            yield ids[first : first + facts["n_tokens"]]
            first += facts["n_tokens"]


def read_samples(corpus: Corpus) -> int:
    """Read our shards with webdataset; give the ids."""
    return sum(map(len, cut_samples(corpus)))


def resume_samples(corpus: Corpus) -> object:
    """Read on to the place: webdataset has no other way."""
    return skip_to(cut_samples(corpus), corpus)


def single_documents(corpus: Corpus) -> Iterator[np.ndarray]:
    """Yield each document of the tar with one document a sample."""
    for sample in iterate_samples([corpus.single]):
        yield np.load(io.BytesIO(sample["npy"]), allow_pickle=False)


def read_single(corpus: Corpus) -> int:
    """Read a tar of one document a sample; give the ids."""
    return sum(map(len, single_documents(corpus)))


def resume_single(corpus: Corpus) -> object:
    """Read on to the place."""
    return skip_to(single_documents(corpus), corpus)


def skip_to(documents: Iterator[np.ndarray], corpus: Corpus) -> np.ndarray:
    """Drop documents until RESUME_AT of them have passed."""
    n_documents = sum(map(len, corpus.dataset.indexes.values()))
    for _ in range(int(RESUME_AT * n_documents)):
        next(documents)
    return next(documents)
