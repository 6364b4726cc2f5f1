"""A dataset behind a URL is read as it is on disk, whatever the network does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import pytest
import torch

from data_tools.stats import collect_stats
from helix.data import DataConfig, DataError, Dataset, ReadAhead, build_validation, remote
from helix.data.cache import CachedStore
from helix.data.manifest import MANIFEST, FetchError
from helix.data.names import document_id
from helix.data.store import default_cache, open_store
from helix.data.verification import verify
from helix.tokenizer import ByteTokenizer
from tests.data.remote_server import serve
from tests.data.test_stream import loader_of, stack

SHARD = "train/de-000000.tar"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.005)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def server(pristine):
    with serve(pristine) as server:
        yield server


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def put_in_memory(path):
    url = f"memory://{uuid.uuid4().hex}/ds"
    fsspec.filesystem("memory").put(str(path) + "/", url, recursive=True)
    return url


def all_ids(dataset):
    return {
        (source, document): dataset.read(source, document).tolist()
        for source, index in dataset.indexes.items()
        for document in range(len(index))
    }


def fetch_threads():
    names = ("helix-fetch", "helix-ahead", "helix-read")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def shard_of(store, file=SHARD):
    return next(shard for _, _, shard in store.manifest.shards("train") if shard.file == file)


@pytest.mark.parametrize("scheme", ["http", "memory", "file"])
def test_a_url_gives_the_documents_the_rows_and_the_position_of_the_folder(
    pristine, server, cache, scheme
):
    url = {"http": server.url, "file": f"file://{pristine}"}.get(scheme) or put_in_memory(pristine)
    for split in ("train", "validation"):
        here = Dataset.open(pristine, split=split)
        there = Dataset.open(url, split=split, cache=cache)
        assert there.fingerprint == here.fingerprint
        assert all_ids(there) == all_ids(here)
        assert there.document_ids("de") == here.document_ids("de")
        assert document_id(there, "de", 3) == document_id(here, "de", 3)
    here, there = loader_of(pristine), loader_of(url, cache=str(cache), n_workers=3)
    for _ in range(5):
        assert torch.equal(stack(there.next()), stack(here.next()))
    assert there.state_dict() == here.state_dict()
    there.close()
    assert not list(cache.glob("*/.partial/*"))
    assert not fetch_threads()


def test_a_run_goes_on_when_its_dataset_moves_to_a_url_and_back(pristine, server, cache):
    here, there = loader_of(pristine), loader_of(server.url + "/", cache=str(cache))
    here.next()
    there.load_state_dict(json.loads(json.dumps(here.state_dict())))
    assert torch.equal(stack(there.next()), stack(here.next()))
    back = loader_of(pristine)
    back.load_state_dict(there.state_dict())
    assert torch.equal(stack(back.next()), stack(here.next()))
    there.close()


def test_each_file_is_fetched_once_and_a_second_run_fetches_the_manifest_alone(server, cache):
    for _ in range(2):
        loader = loader_of(server.url, cache=str(cache))
        store = loader.dataset.store
        store.thread and store.thread.join()
        while loader.epochs()["de"] < 1:
            loader.next()
        loader.close()
    counts = dict(server.requests)
    assert counts.pop(MANIFEST) == 2
    assert set(counts.values()) == {1}
    assert {name for name in counts if name.endswith(".tar")} == {
        shard.file for *_, shard in store.manifest.shards("train")
    }


def test_the_background_fetches_in_the_manifests_order_and_a_demand_goes_first(server, cache):
    store = CachedStore(server.url, cache)
    shards = [shard for *_, shard in store.manifest.shards("train")]
    server.faults = {shard.file: ["slow"] for shard in shards}
    store.fetch_ahead(shards)
    store.shard(shards[-1])
    tars = [name for name in server.requests if name.endswith(".tar")]
    assert tars.index(shards[-1].file) <= 1
    store.thread.join()
    rest = [name for name in server.requests if name in {shard.file for shard in shards[:-1]}]
    assert rest == [shard.file for shard in shards[:-1]]
    store.close()


@pytest.mark.parametrize(
    "faults", [[503] * 5, ["cut"], ["flip"], ["long"], [429, "cut", 500], ["slow"]]
)
@pytest.mark.parametrize("file", [MANIFEST, "train/de.index.npz", SHARD])
def test_what_passes_is_tried_again_and_told_in_one_line_each(
    pristine, server, cache, capsys, file, faults
):
    if file == MANIFEST and faults[0] in ("flip", "long"):
        pytest.skip("a manifest proves itself when it is read")
    if file.endswith("npz") and faults[0] == "long":
        pytest.skip("only its content is hashed")
    server.faults[file] = list(faults)
    dataset = Dataset.open(server.url, cache=cache)
    assert dataset.read("de", 0).tolist() == Dataset.open(pristine).read("de", 0).tolist()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("helix: ")]
    n_failures = len([fault for fault in faults if fault != "slow"])
    assert len(told) == n_failures
    for number, line in enumerate(told, 1):
        assert line.startswith(f"helix: {server.url}/{file}: attempt {number} of 6 failed (")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (503, r"6 attempts \(last: ClientResponseError: 503.*\); check the network"),
        ("cut", r"6 attempts \(last: ClientPayloadError.*\); check the network"),
        ("flip", r"6 attempts \(last: .*bytes changed.*\); what lies there is not what was wri"),
        (403, r"refused \(ClientResponseError: 403.*\); check the URL and the credentials"),
        (404, r"missing, though the manifest names it; copy"),
    ],
)
def test_what_does_not_pass_is_an_error_that_names_url_shard_attempts_and_cause(
    server, cache, fault, message
):
    server.faults[SHARD] = [fault, "..."]
    dataset = Dataset.open(server.url, cache=cache)
    with pytest.raises(DataError, match=rf"{server.url}/{SHARD}: .*{message}"):
        dataset.read("de", 0)
    assert not (dataset.path / SHARD).exists()
    server.faults.clear()
    assert len(dataset.read("de", 0)) > 1


def test_a_refused_connection_is_told_with_its_url(server, cache):
    server.http.server_close()
    with pytest.raises(FetchError, match=rf"{server.url}/{MANIFEST}: .* 6 attempts .*Connect"):
        Dataset.open(server.url, cache=cache)


def test_no_dataset_behind_a_url_is_told_at_once(server, cache):
    with pytest.raises(DataError, match=rf"data.path={server.url}/x: no dataset there"):
        Dataset.open(f"{server.url}/x", cache=cache)
    assert server.requests[f"x/{MANIFEST}"] == 1


def test_an_error_of_the_thread_surfaces_in_next_and_leaves_the_position(server, cache):
    files = [shard.file for *_, shard in CachedStore(server.url, cache).manifest.shards("train")]
    server.faults = {file: ["flip", "..."] for file in files}
    with ReadAhead(loader_of(server.url, cache=str(cache))) as ahead:
        before = ahead.state_dict()
        ahead.prepare()
        for _ in range(2):
            with pytest.raises(DataError, match="what lies there is not what was written"):
                ahead.next()
        assert ahead.state_dict() == before
        server.faults.clear()
        ahead.load_state_dict(before)
        assert ahead.next().n_rows == 12
    assert not fetch_threads()


def test_closing_ends_a_fetch_that_is_under_way(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 60.0)
    files = [shard.file for *_, shard in CachedStore(server.url, cache).manifest.shards("train")]
    server.faults = {file: [503, "..."] for file in files}
    ahead = ReadAhead(loader_of(server.url, cache=str(cache), n_workers=2))
    ahead.prepare()
    started = time.monotonic()
    ahead.close()
    assert time.monotonic() - started < 5
    assert not fetch_threads()


def fetch_in_process(url, cache):
    code = (
        "import sys; from pathlib import Path; from helix.data.cache import CachedStore;"
        f"store = CachedStore({url!r}, Path({str(cache)!r}));"
        "print('open', flush=True); sys.stdin.readline();"
        f"shards = [shard for *_, shard in store.manifest.shards('train')];"
        f"[store.shard(shard) for shard in shards]; print('done', flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    return process


def test_two_processes_that_ask_for_the_same_shards_fetch_each_once(server, cache):
    files = [shard.file for *_, shard in CachedStore(server.url, cache).manifest.shards("train")]
    server.faults = {file: ["slow"] for file in files}
    processes = [fetch_in_process(server.url, cache) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60)[0] == "done\n"
        assert process.returncode == 0
    assert {server.requests[file] for file in files} == {1}


def test_a_program_that_ends_without_closing_is_not_kept_by_what_it_fetches(server, cache):
    files = [shard.file for *_, shard in CachedStore(server.url, cache).manifest.shards("train")]
    server.faults = {file: [503, "..."] for file in files}
    code = (
        "from helix.data import remote; from tests.data.test_stream import loader_of;"
        f"remote.FIRST_WAIT_S = 60.0; loader = loader_of({server.url!r}, cache={str(cache)!r});"
        "raise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=50, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr


def test_threads_that_ask_for_the_same_shard_fetch_it_once(server, cache):
    store = CachedStore(server.url, cache)
    server.faults = {SHARD: ["slow"]}
    with ThreadPoolExecutor(8) as pool:
        places = set(pool.map(store.shard, [shard_of(store)] * 8))
    assert len(places) == 1
    assert server.requests[SHARD] == 1


def test_a_process_killed_while_it_fetches_leaves_a_cache_that_mends_itself(
    pristine, server, cache
):
    files = [shard.file for *_, shard in CachedStore(server.url, cache).manifest.shards("train")]
    server.faults = {files[2]: ["slow"]}
    process = fetch_in_process(server.url, cache)
    process.stdin.write("go\n")
    process.stdin.flush()
    while not server.requests[files[2]] or not list(cache.glob("*/.partial/*")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("*/.partial/*"))
    assert sorted(file.name for file in cache.glob("*/train/*.tar")) == [
        "de-000000.tar",
        "de-000001.tar",
    ]
    assert all_ids(Dataset.open(server.url, cache=cache)) == all_ids(Dataset.open(pristine))
    assert not list(cache.glob("*/.partial/*"))
    assert (server.requests[files[0]], server.requests[files[2]]) == (1, 2)


def test_a_file_of_the_cache_that_was_cut_or_damaged_is_fetched_again_or_told(server, cache):
    dataset = Dataset.open(server.url, cache=cache)
    ids = dataset.read("de", 0).tolist()
    shard, index = dataset.path / SHARD, dataset.path / "train/de.index.npz"
    shard.write_bytes(shard.read_bytes()[:-1])
    index.write_bytes(b"")
    again = Dataset.open(server.url, cache=cache)
    assert again.read("de", 0).tolist() == ids
    content = bytearray(shard.read_bytes())
    content[int(again.indexes["de"].offset[0])] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=rf"bytes changed .*; remove {again.path}, and it is fetch"):
        Dataset.open(server.url, cache=cache).read("de", 0)


def test_a_dataset_that_does_not_fit_is_refused_at_load_with_both_figures(
    server, cache, monkeypatch
):
    with pytest.raises(DataError, match=r"data.cache_gib=1e-06: http.* has .*e-05 GiB to train"):
        loader_of(server.url, cache=str(cache), cache_gib=1e-6)
    with pytest.raises(DataError, match=r"data.cache_gib=1e-06: .*random order"):
        loader_of(server.url, cache=str(cache), cache_gib=1e-6, on_bad_shard="skip")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(DataError, match=r"data.cache=.*: .* GiB are free there, .* needs .* m"):
            loader_of(server.url, cache=str(cache))
    assert not [name for name in server.requests if name.endswith(".tar")]
    n_bytes = Dataset.open(server.url, cache=cache).sources["en"].shards[0].n_file_bytes
    loader_of(
        server.url, cache=str(cache), weights={"de": 0, "en": 1}, cache_gib=3 * n_bytes / 2**30
    ).close()


def test_the_cache_lies_where_xdg_says_and_one_folder_serves_the_dataset(server, tmp_path):
    assert default_cache() == tmp_path / "xdg" / "helix" / "datasets"
    dataset = Dataset.open(server.url)
    assert dataset.path == default_cache() / dataset.fingerprint[:32]


def test_a_folder_below_home_may_be_called_by_a_tilde(pristine, server, monkeypatch):
    monkeypatch.setenv("HOME", str(pristine.parent))
    assert open_store(f"~/{pristine.name}").path == pristine
    store = open_store(server.url, "~/cache")
    assert store.path.parent == pristine.parent / "cache"


def test_stats_and_validation_work_behind_a_url(pristine, server):
    assert collect_stats(server.url) == collect_stats(pristine)
    sources = build_validation(DataConfig(path=server.url), ByteTokenizer())
    here = build_validation(DataConfig(path=str(pristine)), ByteTokenizer())
    assert [source.fingerprint for source in sources] == [source.fingerprint for source in here]
    for ours, theirs in zip(sources[0].rows(), here[0].rows(), strict=True):
        assert (ours == theirs).all()


def test_verify_reads_all_behind_a_url_and_names_what_is_wrong_there(server):
    assert not verify(server.url).faults
    server.faults = {}
    other = "validation/en-000000.tar"
    store = open_store(server.url)
    for name in (SHARD, other):
        (store.path / name).unlink()
    server.faults = {SHARD: ["flip", "..."], other: [404, "..."]}
    faults = verify(server.url).faults
    assert [fault.file for fault in faults] == [SHARD, other]
    server.faults = {SHARD: [503, "..."]}
    with pytest.raises(FetchError, match="503"):
        verify(server.url)


def test_a_shard_that_is_wrong_behind_a_url_is_skipped_but_an_unreachable_one_stops(
    server, cache, capsys
):
    server.faults = {SHARD: ["flip", "..."]}
    loader = loader_of(server.url, cache=str(cache), on_bad_shard="skip")
    assert loader.dataset.skipped == {"de": (0,)}
    assert "skipped, as data.on_bad_shard=skip says" in capsys.readouterr().err
    loader.next()
    loader.close()
    server.faults = {SHARD: [503, "..."]}
    with pytest.raises(FetchError, match="503"):
        loader_of(server.url, cache=str(cache), on_bad_shard="skip")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://x/y", r"data.path=nosuch://x/y: cannot be opened .*Protocol not known"),
        ("s3://bucket/ds", r"data.path=s3://bucket/ds: s3:// needs .*: pip install s3fs"),
        ("https://host/ds", r"data.path=https://host/ds: https:// needs .*: pip install aiohttp"),
    ],
)
def test_a_missing_package_is_named(url, message, monkeypatch):
    for module in ("s3fs", "aiohttp", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(DataError, match=message):
        Dataset.open(url)


def test_a_run_trains_from_a_url_and_goes_on_from_the_folder(corpus, tiny_run):
    from helix.training.metrics import read_records
    from helix.training.trainer import Trainer, train

    whole, moved = tiny_run(run_dir="whole"), tiny_run(run_dir="moved")
    train(whole)
    with serve(corpus) as server:
        stopped = Trainer.build(replace(moved, data=replace(moved.data, path=server.url)))
        with stopped.metrics, stopped.loader:
            for _ in range(3):
                stopped.metrics.write(*stopped.take_step())
            stopped.save()
    assert not fetch_threads()
    train(moved)
    runs = [[r for r in read_records(c.run_dir) if "speed/step_ms" in r] for c in (whole, moved)]
    assert all(record["speed/data_wait_ms"] >= 0 for run in runs for record in run)
    losses = [[record["train/loss_nats_per_token"] for record in run] for run in runs]
    assert losses[0] == losses[1]
