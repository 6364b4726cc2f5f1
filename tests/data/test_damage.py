"""Damage of any kind is told by name before a wrong token is served."""

import hashlib
import json
import random
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.make_shards import make_shards
from helix.data import DataConfig, DataError, Dataset, build_validation
from helix.data.names import document_id
from helix.data.shards import MANIFEST, Index, Manifest
from helix.data.skipping import find_bad_shards
from helix.data.store import LocalStore
from helix.data.verification import verify
from helix.tokenizer import ByteTokenizer
from tests.data.test_stream import loader_of


def all_ids(dataset):
    return {
        (source, document): dataset.read(source, document).tolist()
        for source, index in dataset.indexes.items()
        for document in range(len(index))
    }


@pytest.fixture(scope="module")
def intact(pristine):
    return all_ids(Dataset.open(pristine))


@pytest.fixture(scope="module")
def hurt_path(pristine, tmp_path_factory):
    """A copy that each example damages and mends."""
    path = tmp_path_factory.mktemp("hurt") / "dataset"
    for file in all_files(pristine):
        (path / file.relative_to(pristine)).parent.mkdir(parents=True, exist_ok=True)
        (path / file.relative_to(pristine)).write_bytes(file.read_bytes())
    return path


def all_files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


class Damaged:
    """A file with other bytes, for a while."""

    def __init__(self, file, content):
        self.file, self.content, self.before = file, content, file.read_bytes()

    def __enter__(self):
        self.file.write_bytes(self.content)

    def __exit__(self, *_):
        self.file.write_bytes(self.before)


def test_a_tar_cut_at_any_of_200_places_is_refused_when_it_is_opened(hurt_path):
    draw = random.Random(0)
    for attempt in range(200):
        shard = draw.choice(sorted((hurt_path / "train").glob("*.tar")))
        source = shard.name.split("-")[0]
        content = shard.read_bytes()
        n_bytes = draw.randrange(len(content))
        with Damaged(shard, content[:n_bytes]):
            with pytest.raises(DataError, match=rf"{shard.name}: shard cut short") as refused:
                Dataset.open(hurt_path)
            faults = verify(hurt_path).faults if attempt % 10 == 0 else ()
        index = Dataset.open(hurt_path).indexes[source]
        here = index.shard == int(shard.stem[-6:])
        hurt = np.flatnonzero(here & (index.offset + 2 * index.n_ids > n_bytes))
        named = f"(first hurt: document {hurt[0]} of {source!r})" if len(hurt) else "again"
        assert str(refused.value).endswith(named)
        assert {fault.file for fault in faults} <= {f"train/{shard.name}"}
        if faults:
            found = [fault.document for fault in faults if fault.document is not None]
            assert found == hurt[:10].tolist()


def test_a_tar_cut_at_any_of_200_places_while_training_serves_no_wrong_token(hurt_path, intact):
    draw = random.Random(1)
    for _ in range(200):
        shard = draw.choice(sorted((hurt_path / "train").glob("*.tar")))
        source, number = shard.name.split("-")[0], int(shard.stem[-6:])
        dataset = Dataset.open(hurt_path)
        index = dataset.indexes[source]
        n_bytes = draw.randrange(shard.stat().st_size)
        with Damaged(shard, shard.read_bytes()[:n_bytes]):
            for document in np.flatnonzero(index.shard == number).tolist():
                if index.offset[document] + 2 * index.n_ids[document] <= n_bytes:
                    assert dataset.read(source, document).tolist() == intact[source, document]
                else:
                    where = rf"{shard.name}: document {document} of '{source}' at byte \d+: shard"
                    with pytest.raises(DataError, match=where):
                        dataset.read(source, document)


@given(data=st.data(), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=120)
def test_a_bit_flipped_in_any_file_serves_no_wrong_token(hurt_path, intact, data, bit):
    file = data.draw(st.sampled_from(all_files(hurt_path)))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << bit
    with Damaged(file, content):
        if file.suffix == ".tar":
            faults = verify(hurt_path).faults  # an id that became another's is told where that is
            named = {fault.file for fault in faults if "the id of another" not in fault.problem}
            assert named == {str(file.relative_to(hurt_path))}
        dataset, refusal = attempt(Dataset.open, hurt_path)
        assert dataset is not None or file.name in refusal
        for (source, document), expected in intact.items() if dataset is not None else ():
            ids, refusal = attempt(dataset.read, source, document)
            if ids is None:
                assert f"{file.name}: document {document} of {source!r}" in refusal
            else:
                assert ids.tolist() == expected


def attempt(function, *arguments):
    try:
        return function(*arguments), ""
    except DataError as error:
        return None, str(error)


def test_the_loader_names_the_shard_and_the_document_that_is_damaged(dataset_path):
    loader = loader_of(dataset_path)
    segment = loader.provenance(0)[0][0]
    index = loader.dataset.indexes[segment.source]
    shard = loader.dataset.sources[segment.source].shards[index.shard[segment.document]]
    content = bytearray((dataset_path / shard.file).read_bytes())
    content[int(index.offset[segment.document]) + 1] ^= 1
    (dataset_path / shard.file).write_bytes(content)
    where = rf"{shard.file}: document {segment.document} of '{segment.source}' at byte \d+: bytes"
    with pytest.raises(DataError, match=where):
        loader_of(dataset_path).next()
    assert [fault.document for fault in verify(dataset_path).faults] == [None, segment.document]


def test_any_missing_file_is_refused_and_reported_by_name(hurt_path):
    for file in all_files(hurt_path):
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError, match=file.name):  # an index is asked for by its own split
            Dataset.open(hurt_path, split="train" if "train" in str(file) else "validation")
        named = {fault.file for fault in verify(hurt_path).faults}
        file.write_bytes(content)
        assert named == {str(file.relative_to(hurt_path))}
    assert not verify(hurt_path).faults


def leaves(tree, path=()):
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    else:
        yield path


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_manifest_changed_anywhere_is_refused(pristine, hurt_path, data):
    manifest = json.loads((pristine / MANIFEST).read_text())
    *parents, last = data.draw(st.sampled_from(sorted(leaves(manifest), key=str)))
    place = manifest
    for key in parents:
        place = place[key]
    old = place[last]
    place[last] = old + 1 if isinstance(old, int | float) else f"{old}0"
    with (
        Damaged(hurt_path / MANIFEST, json.dumps(manifest).encode()),
        pytest.raises(DataError, match=r"manifest.json: (changed since|format version)"),
    ):
        Dataset.open(hurt_path)


def test_a_manifest_of_an_older_helix_is_read_though_it_has_no_hash(dataset_path, pristine):
    fields = json.loads((dataset_path / MANIFEST).read_text())
    del fields["fingerprint"]
    (dataset_path / MANIFEST).write_text(json.dumps(fields))
    assert Dataset.open(dataset_path).fingerprint == Dataset.open(pristine).fingerprint


def rewrite_index(path, source, change):
    """Change an index and have the manifest vouch for it: what a faulty writer would leave."""
    manifest = Manifest.read(path)
    old = manifest.splits["train"][source]
    arrays = Index.read(path / old.index, expected_hash=old.index_hash).arrays()
    change(arrays)
    index = Index(**arrays)
    np.savez(path / old.index, **arrays)
    facts = asdict(old) | {"shards": old.shards, "index_hash": index.hash()}
    facts |= {"n_tokens": int(index.n_ids.sum()), "n_bytes": int(index.n_bytes.sum())}
    splits = manifest.splits | {"train": manifest.splits["train"] | {source: type(old)(**facts)}}
    changed = Manifest(**asdict(manifest) | {"splits": splits})
    (path / MANIFEST).write_text(changed.to_json())


def repeat_a_document(arrays):
    for array in arrays.values():
        array[3] = array[2]


def place_beyond_the_shard(arrays):
    arrays["offset"][-1] += 10**6


def name_a_shard_that_is_not_there(arrays):
    arrays["shard"][-1] = 99


@pytest.mark.parametrize(
    "change", [repeat_a_document, place_beyond_the_shard, name_a_shard_that_is_not_there]
)
def test_an_index_that_a_manifest_vouches_for_must_still_make_sense(dataset_path, change):
    rewrite_index(dataset_path, "de", change)
    with pytest.raises(DataError, match=r"de.index.npz: document \d+ does not lie after document"):
        Dataset.open(dataset_path)
    assert [fault.file for fault in verify(dataset_path).faults] == ["train/de.index.npz"]


def test_a_document_that_was_written_wrong_is_found_though_every_hash_is_right(
    tmp_path, documents, monkeypatch
):
    encode_many = ByteTokenizer.encode_many
    inner_eos = ByteTokenizer.eos_id

    def with_an_eos_within(self, texts):
        encoded = encode_many(self, texts)
        return [[*ids, inner_eos, 65] if n == 5 else ids for n, ids in enumerate(encoded)]

    monkeypatch.setattr(ByteTokenizer, "encode_many", with_an_eos_within)
    make_shards(documents[:40], ByteTokenizer(), tmp_path / "a", validation_fraction=0)
    [fault] = verify(tmp_path / "a").faults
    assert (fault.file, fault.source, fault.document) == ("train/de-000000.tar", "de", 5)
    assert "end with id 257, have neither within" in fault.problem


def rename(path, split, old, new):
    """Rename a document and have the manifest vouch for it: what a faulty writer would leave."""
    fields = json.loads((path / MANIFEST).read_text())
    del fields["fingerprint"]
    for shard in fields["splits"][split]["de"]["shards"]:
        content = (path / shard["file"]).read_bytes().replace(f'"{old}"'.encode(), new)
        (path / shard["file"]).write_bytes(content)
        shard["sha256"] = hashlib.sha256(content).hexdigest()
    (path / MANIFEST).write_text(json.dumps(fields))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_id_that_occurs_twice_in_a_source_is_named_in_whatever_split(dataset_path, split):
    train = Dataset.open(dataset_path).document_ids("de")
    names = Dataset.open(dataset_path, split=split).document_ids("de")
    n_digits = len(names[5])
    taken = next(name for name in train if len(name) == n_digits and name != names[5])
    rename(dataset_path, split, names[5], f'"{taken}"'.encode())
    [fault] = verify(dataset_path).faults
    assert fault.file.startswith(split)
    assert "has the id of another one of its source" in fault.problem
    changed = Dataset.open(dataset_path, split=split)
    assert document_id(changed, "de", fault.document) == taken


def test_every_document_is_named_by_look_up_as_by_reading_all(pristine):
    for split in ("train", "validation"):
        dataset = Dataset.open(pristine, split=split)
        for source in dataset.sources:
            names = dataset.document_ids(source)
            assert [document_id(dataset, source, n) for n in range(len(names))] == names


def test_a_damaged_name_is_refused_by_shard_and_document(dataset_path):
    dataset = Dataset.open(dataset_path)
    shard = dataset_path / dataset.sources["de"].shards[0].file
    content = bytearray(shard.read_bytes())
    content[512] = 0  # the first byte of the first .json member
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"{shard.name}: document 0 of 'de': its name"):
        document_id(dataset, "de", 0)
    problems = [fault.problem for fault in verify(dataset_path).faults]
    assert any("its .json members cannot be read" in problem for problem in problems)


# data.on_bad_shard=skip


def hurt_shards(path, capsys, *, files):
    """Damage shards in three ways; give a loader that skips them, and what it said."""
    for number, file in enumerate(files):
        content = bytearray((path / file).read_bytes())
        if number % 3 == 0:
            content[len(content) // 2] ^= 1
        (path / file).write_bytes(content[:-1] if number % 3 == 1 else content)
        if number % 3 == 2:
            (path / file).unlink()
    loader = loader_of(path, on_bad_shard="skip")
    return loader, capsys.readouterr().err


def test_skipped_shards_are_told_counted_and_never_read(dataset_path, capsys, intact):
    files = sorted(f"train/{file.name}" for file in (dataset_path / "train").glob("de-*.tar"))[:-1]
    index = Dataset.open(dataset_path).indexes["de"]
    loader, said = hurt_shards(dataset_path, capsys, files=files)
    bad = index.shard < len(files)
    for file in files:
        assert f"data.on_bad_shard=skip says: {dataset_path / file}: " in said
    assert f"{len(files)} of {len(files) + 1} shards skipped: {bad.sum()} documents" in said
    assert f"{int(index.n_ids[bad].sum()):,} tokens" in said
    seen = set()
    while loader.epochs()["de"] < 2:
        before = loader.state_dict()
        batch = loader.next()
        loader.load_state_dict(before)
        for row, segments in enumerate(loader.next_rows()):
            ids = []
            for s in segments:
                ids += intact[s.source, s.document][s.first_pair : s.first_pair + s.n_pairs]
                seen.add((s.source, s.document))
            assert batch.tokens[row].tolist() == ids
    assert {n for source, n in seen if source == "de"} == set(np.flatnonzero(~bad).tolist())


def test_with_shards_skipped_look_up_and_resume_still_equal_reading(dataset_path, capsys):
    loader, _ = hurt_shards(dataset_path, capsys, files=["train/de-000000.tar"])
    for step in range(40):
        resumed = loader_of(dataset_path, on_bad_shard="skip", rank=1, world_size=3)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rows = loader.next_rows()
        assert resumed.next_rows() == rows
        assert loader.provenance(step) == rows


def test_a_run_goes_on_skipping_what_was_mended_and_refuses_what_broke_since(
    dataset_path, pristine, capsys
):
    whole = loader_of(dataset_path)
    assert loader_of(pristine, on_bad_shard="skip").state_dict() == whole.state_dict()
    loader, _ = hurt_shards(dataset_path, capsys, files=["train/de-000000.tar"])
    loader.next()
    mended = loader_of(pristine)
    mended.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert "still skipped, as when the run began: {'de': [0]}" in capsys.readouterr().err
    assert mended.state_dict() == loader.state_dict()
    assert [mended.next_rows() for _ in range(9)] == [loader.next_rows() for _ in range(9)]
    with pytest.raises(DataError, match="skipped shards: the checkpoint's position is in other"):
        loader.load_state_dict(json.loads(json.dumps(whole.state_dict())))


def test_a_source_of_which_nothing_is_left_is_refused(dataset_path, capsys):
    for file in (dataset_path / "train").glob("en-*.tar"):
        file.unlink()
    with pytest.raises(DataError, match=r"every shard of 'en' is bad; .* data.weights.en=0"):
        loader_of(dataset_path, on_bad_shard="skip")
    rest = loader_of(dataset_path, on_bad_shard="skip", weights={"de": 1.0, "en": 0.0})
    assert rest.next().n_rows == 12


def test_validation_skips_nothing(dataset_path, capsys):
    config = DataConfig(path=str(dataset_path), on_bad_shard="skip")
    hurt_shards(dataset_path, capsys, files=["train/de-000000.tar"])
    assert len(build_validation(config, ByteTokenizer())) == 2
    next((dataset_path / "validation").glob("*.tar")).unlink()
    with pytest.raises(DataError, match="missing, though the manifest names it"):
        build_validation(config, ByteTokenizer())


def find_on_rank(path):
    return dict(find_bad_shards(LocalStore(path)))


@pytest.mark.ranks
def test_all_ranks_skip_the_same_shards(dataset_path, two_ranks):
    files = sorted((dataset_path / "train").glob("de-*.tar"))
    for file in files[:3]:
        file.unlink()
    assert two_ranks.run(find_on_rank, dataset_path) == [{"de": (0, 1, 2)}] * 2
