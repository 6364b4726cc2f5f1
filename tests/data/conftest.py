import random
import shutil

import pytest

from data_tools import shard_writer
from data_tools.documents import Document
from data_tools.make_shards import make_shards
from helix.tokenizer import ByteTokenizer

ALPHABET = {"de": "abcdeä ", "en": "vwxyz \n"}
N_DOCUMENTS = {"de": 60, "en": 25}


def synthetic_documents() -> list[Document]:
    """85 short texts, all different, of two sources; one is longer than many rows."""
    draw = random.Random(0)
    documents = []
    for source, alphabet in ALPHABET.items():
        for number in range(N_DOCUMENTS[source]):
            n_characters = 2000 if number == 7 else draw.randint(1, 120)
            text = f"{number}:" + "".join(draw.choices(alphabet, k=n_characters))
            documents.append(
                Document(
                    id=f"{source}:{number}",
                    text=text,
                    source=source,
                    language=source,
                    licence="CC0-1.0",
                )
            )
    return documents


@pytest.fixture(scope="session")
def documents():
    return synthetic_documents()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, documents):
    """A dataset of two sources in several shards. Read it; to change one, take `dataset_path`."""
    path = tmp_path_factory.mktemp("data") / "dataset"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "SAMPLE_BYTES", 1500)  # or each shard would hold one member
        make_shards(documents, ByteTokenizer(), path, validation_fraction=0.2, shard_bytes=12_000)
    return path


@pytest.fixture
def dataset_path(pristine, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(pristine, tmp_path / "dataset")
