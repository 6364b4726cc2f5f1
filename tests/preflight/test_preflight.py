"""Preflight finds what is wrong before a run does, names the rank, and never hangs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helix.cli import main
from helix.config import load
from helix.preflight import CHECKS, parity
from helix.preflight.cases import cases_of
from helix.preflight.conduct import Check, Conduct
from helix.preflight.context import Context, PreflightConfig
from helix.preflight.data import judge_epochs
from helix.preflight.devices import judge_device
from helix.preflight.disk import judge_writing, write_and_read
from helix.preflight.findings import Facts, Seen, spans, worst
from helix.preflight.memory import judge_host, left_in_cgroups
from helix.preflight.steps import judge_steps, reduced
from helix.preflight.versions import judge_versions
from helix.presets import PRESETS
from helix.training.engine import join_ranks
from tests.commands import clean_environment
from tests.conftest import TINY_MODEL
from tests.preflight.faults import check_with, number_where_each_rank_sees_one_gpu

TIMEOUT_S = 120
FOR_TWO = ("training.micro_batch_rows=2",)


@pytest.fixture
def words(corpus, tmp_path):
    """The settings of a small run; words override them."""

    def make(*changed, run_dir=tmp_path / "run", data=corpus):
        overridden = {word.partition("=")[0] for word in changed}
        kept = [word for word in TINY_MODEL if word.partition("=")[0] not in overridden]
        return [f"run_dir={run_dir}", f"data.path={data}", *kept, *changed]

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes; give how to mount it again with other options."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def report(arguments, capsys, *, status):
    """Run preflight as a person does; give its findings by name."""
    capsys.readouterr()
    assert main(["doctor", "preflight", *arguments, "json=true"]) == status
    printed = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in printed["findings"]}
    assert all(f["advice"] for f in found.values() if f["verdict"] == "FAILED")
    assert printed["counts"]["FAILED"] == sum(f["verdict"] == "FAILED" for f in found.values())
    assert len(found) == len(printed["findings"])
    return found


def failed(found):
    return {name for name, finding in found.items() if finding["verdict"] == "FAILED"}


def test_run_that_would_go_well_passes_and_leaves_nothing_behind(words, tmp_path, capsys):
    found = report(words(), capsys, status=0)
    assert failed(found) == set()
    assert "4 rows a step = 1 ranks x 1 accumulations x 4 rows" in found["batch"]["found"]
    assert found["run folder"]["found"] == "a new run"
    assert found["steps"]["verdict"] == "ok"
    assert "right, results and gradients" in found["kernels"]["found"]
    assert not (tmp_path / "run").exists()


def test_table_names_each_check_once_and_says_whether_to_train(words, capsys):
    assert main(["doctor", "preflight", *words()]) == 0
    printed = capsys.readouterr().out
    for name in ("configuration", "host memory", "kernels", "steps"):
        assert printed.count(f"│ {name} ") == 1
    assert "ready to train" in printed


def test_setting_that_does_not_exist_fails_and_the_rest_is_looked_at(words, capsys):
    found = report(words("training.n_stepz=3"), capsys, status=2)
    assert failed(found) == {"configuration"}
    assert "did you mean n_steps?" in found["configuration"]["advice"]
    assert found["versions"]["verdict"] == "ok"
    assert found["steps"]["found"] == "not looked at: there is no configuration"


def test_folder_of_another_run_fails(words, trained_run, capsys):
    changed = words("training.n_steps=20", "seed=9", run_dir=trained_run.run_dir)
    found = report(changed, capsys, status=2)
    assert "run folder" in failed(found)
    assert "seed=9 here" in found["run folder"]["found"]


def test_folder_of_this_run_is_gone_on_with(trained_run, capsys):
    before = sorted(Path(trained_run.run_dir).rglob("*"))
    found = report([f"run_dir={trained_run.run_dir}"], capsys, status=0)
    assert found["run folder"]["found"] == "goes on from step-00000020"
    assert sorted(Path(trained_run.run_dir).rglob("*")) == before


def test_full_disk_fails_in_one_line(words, small_disk, capsys):
    found = report(words(run_dir=small_disk / "run"), capsys, status=2)
    assert failed(found) == {"disk"}
    assert "No space left on device" in found["disk"]["found"]
    assert not list(small_disk.iterdir())


def test_disk_without_room_for_the_checkpoints_fails(words, small_disk, capsys):
    changed = words("training.keep_checkpoints=50", run_dir=small_disk / "run")
    found = report(changed, capsys, status=2)
    assert "room on the disk" in failed(found)
    assert "keep fewer" in found["room on the disk"]["advice"]


def test_folder_that_cannot_be_written_fails(words, small_disk, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    found = report(words(run_dir=tmp_path / "file" / "run"), capsys, status=2)
    assert {"disk", "room on the disk"} <= failed(found)
    assert "cannot be made (Not a directory)" in found["disk"]["found"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    found = report(words(run_dir=small_disk), capsys, status=2)
    assert {"disk", "room on the disk"} <= failed(found)
    assert "Read-only file system" in found["disk"]["found"]
    assert "mounted read-only" in found["room on the disk"]["found"]


def test_tokenizer_that_did_not_make_the_data_fails(words, corpus, tmp_path, capsys):
    data = shutil.copytree(corpus, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["tokenizer_fingerprint"] = "0" * 64
    del manifest["fingerprint"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    found = report(words(data=data), capsys, status=2)
    assert failed(found) == {"data"}
    assert "made with the tokenizer 0000000000000000" in found["data"]["found"]


def test_embedding_smaller_than_the_vocabulary_fails(words, capsys):
    found = report(words("model.n_vocab=250"), capsys, status=2)
    assert "vocabulary" in failed(found)
    assert "the tokenizer has 258 entries" in found["vocabulary"]["found"]


def test_shard_that_was_cut_fails_at_once_and_changed_bytes_fail_with_hashes(
    words, corpus, tmp_path, capsys
):
    data = shutil.copytree(corpus, tmp_path / "data")
    shard = min((data / "train").glob("de-*.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert "data" not in failed(report(words(data=data), capsys, status=0))
    found = report([*words(data=data), "hashes=true"], capsys, status=2)
    assert failed(found) == {"hashes of the data"}
    shard.write_bytes(content[:-100])
    assert failed(report(words(data=data), capsys, status=2)) == {"data"}
    found = report(words("data.on_bad_shard=skip", data=data), capsys, status=0)
    assert found["data"]["verdict"] == "warning"
    assert "cut short or missing: de [0]" in found["data"]["found"]


def test_whole_data_pass_with_hashes(words, capsys):
    found = report([*words(), "hashes=true"], capsys, status=0)
    assert "every byte as it was written" in found["hashes of the data"]["found"]


def test_shards_behind_a_url_are_asked_for(words, corpus, tmp_path, capsys):
    data = shutil.copytree(corpus, tmp_path / "data")
    changed = words(f"data.cache={tmp_path / 'cache'}", data=f"file://{data}")
    found = report(changed, capsys, status=0)
    assert "shards asked for, all there" in found["data behind a URL"]["found"]
    next((data / "train").glob("*.tar")).unlink()
    found = report(changed, capsys, status=2)
    assert failed(found) == {"data behind a URL"}
    assert "missing, though the manifest names it" in found["data behind a URL"]["found"]


def test_micro_batch_that_does_not_divide_over_the_ranks_fails(words, two_ranks):
    told = two_ranks.run(check_with, words(), "", ["configuration", "batch"], TIMEOUT_S)
    assert [status for status, *_ in told] == [2, 2]
    found = told[0][2]["batch"]
    assert found["verdict"] == "FAILED"
    assert "training.micro_batch_rows=4 x 2 ranks" in found["found"]


def test_ranks_of_a_node_have_numbers_of_their_own_where_each_sees_one_gpu(two_ranks):
    assert sorted(two_ranks.run(number_where_each_rank_sees_one_gpu)) == [0, 1]


def test_writing_leaves_the_file_of_another_rank_alone(tmp_path):
    theirs = tmp_path / ".preflight-node1.partial"
    theirs.touch()
    write_and_read(tmp_path / ".preflight-node1.cluster-0", 1)
    assert list(tmp_path.iterdir()) == [theirs]


@pytest.mark.ranks
def test_two_ranks_that_would_go_well_pass_every_check(words, two_ranks):
    names = [check.name for check in CHECKS]
    told = two_ranks.run(check_with, words(*FOR_TWO), "", names, TIMEOUT_S)
    assert [status for status, *_ in told] == [0, 0]
    found = told[0][2]
    assert not told[1][2]  # rank 0 alone reports
    for name in ("collectives", "links", "host group", "clocks", "one shared folder", "steps"):
        assert found[name]["verdict"] == "ok", found[name]


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("fault", "name", "message"),
    [
        ("another_version", "versions", "deepspeed 0.0.1 on rank 1"),
        ("another_code", "versions", "code 0123456789ab on rank 1"),
        ("wrong_sum", "collectives", "rank 1"),
        ("wrong_sum", "host group", "rank 1"),
        ("another_folder", "one shared folder", "rank 1"),
        ("another_loss", "steps", "another loss on the same batch"),
    ],
)
def test_fault_of_one_rank_fails_and_names_it(words, two_ranks, fault, name, message):
    names = ["versions", "configuration", name]
    timeout_s = 4 if fault == "another_folder" else TIMEOUT_S
    told = two_ranks.run(check_with, words(*FOR_TWO), fault, names, timeout_s)
    assert [status for status, *_ in told] == [2, 2]
    found = told[0][2][name]
    assert found["verdict"] == "FAILED"
    assert message in found["found"]


@pytest.mark.ranks
def test_clock_that_is_ahead_is_a_warning(words, two_ranks):
    told = two_ranks.run(check_with, words(*FOR_TWO), "clock_ahead", ["clocks"], TIMEOUT_S)
    assert [status for status, *_ in told] == [0, 0]
    found = told[0][2]["clocks"]
    assert found["verdict"] == "warning"
    ahead = re.search(r"rank 1 \(.*\) is \+(\d+) ms from rank 0", found["found"])
    assert int(ahead[1]) == pytest.approx(5000, abs=500)  # a busy machine answers late


@pytest.mark.ranks
def test_check_that_hangs_on_a_rank_fails_in_time_and_the_next_are_made(words, two_ranks):
    names = ["slow", "versions", "host group"]
    told = two_ranks.run(check_with, words(*FOR_TWO), "hangs", names, 2.0)
    assert [status for status, *_ in told] == [2, 2]
    _, seconds, found = told[0]
    assert seconds < 20
    assert "rank 1" in found["slow"]["found"]
    assert "no end after 2 s" in found["slow"]["found"]
    assert found["versions"]["verdict"] == found["host group"]["verdict"] == "ok"


@pytest.mark.ranks
def test_rank_that_fails_in_a_collective_strands_nobody(words, two_ranks):
    names = ["links", "host group", "versions"]
    try:
        told = two_ranks.run(check_with, words(*FOR_TWO), "raises_in_a_collective", names, 3.0)
    finally:
        two_ranks.ranks.stop()  # rank 0 still waits there
    assert [status for status, *_ in told] == [2, 2]
    _, seconds, found = told[0]
    assert seconds < 25
    assert found["links"]["verdict"] == "FAILED"
    assert found["host group"]["found"] == "not looked at: the ranks lost each other above"
    assert found["versions"]["verdict"] == "ok"


@pytest.mark.ranks
def test_torchrun_prints_one_table_and_all_ranks_end_alike(words):
    torchrun = Path(sys.executable).parent / "torchrun"
    command = [torchrun, "--standalone", "--nproc_per_node", "2", "-m", "helix"]
    command += ["doctor", "preflight", *words(*FOR_TWO)]
    ended = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("ready to train") == 1


def test_rank_whose_peers_do_not_come_ends_with_one_line(words):
    environment = clean_environment(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29731"
    )
    command = [sys.executable, "-m", "helix", "doctor", "preflight", *words(), "timeout_s=4"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert ended.returncode == 2, ended.stderr
    assert "rank 0 of 2 did not meet the others at 127.0.0.1:29731" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_check_that_raises_is_a_finding_and_no_traceback(words):
    def stumble(context):
        raise ZeroDivisionError("by\nnothing")

    def misjudge(facts):
        raise KeyError("what?")

    join_ranks()
    conduct = Conduct(Context.here(words(), PreflightConfig()))
    checks = [
        Check(name="looks", look=stumble, needs_run=False),
        Check(name="judges", look=lambda c: {}, judge=misjudge, needs_run=False),
    ]
    first, second = conduct.make(checks)
    assert (first.verdict, first.found) == ("FAILED", "ZeroDivisionError: by nothing")
    assert (second.verdict, second.found) == ("FAILED", "KeyError: 'what?'")
    assert conduct.agree() == 2


@pytest.mark.parametrize("fp8", ["", "mlp head"])
def test_kernels_of_a_run_are_those_of_its_pattern(fp8, words):
    run = load(words("model.n_vocab=320", f"model.fp8={fp8}"), PRESETS)
    kernels = [case.kernel for case in cases_of(run.model, 0)]
    assert len(kernels) == len(set(kernels))
    assert {"ssd", "conv", "gla", "sparse", "rotary", "cross_entropy"} <= set(kernels)
    assert "attention" not in kernels
    assert ("swiglu_fp8" in kernels) == ("cross_entropy_fp8" in kernels) == bool(fp8)
    for case in cases_of(run.model, 0):
        function, backend = parity.chosen(case)
        bound = parity.FP8_BOUND if case.is_fp8 else parity.BOUNDS[torch.float32]
        error = parity.error_of(case, function, torch.device("cpu"), torch.float32)
        assert error <= bound, (case.kernel, backend)


def test_kernel_that_computes_otherwise_fails_by_name(words, monkeypatch, capsys):
    chosen = parity.chosen

    def spoiled(case):
        function, backend = chosen(case)
        if case.kernel == "glu":
            return lambda x: function(x) * 1.01, backend
        if case.kernel == "rms_norm":
            return lambda *inputs, eps: function(*inputs, eps=eps) / 0, backend
        return function, backend

    monkeypatch.setattr(parity, "chosen", spoiled)
    found = report(words(), capsys, status=2)
    assert failed(found) == {"kernels"}
    assert "glu (reference): relative error 1.0e-02" in found["kernels"]["found"]
    assert "rms_norm (reference): relative error nan" in found["kernels"]["found"]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_has_a_small_model_of_its_kinds(preset):
    run = PRESETS[preset]()
    small = reduced(run, 2)
    assert set(small.model.kinds()) == set(run.model.kinds())
    assert sum(small.model.parameters_by_part().values()) < 5e6
    assert small.training.n_accumulations(2) == 1


def facts(by_rank, hosts=("a", "a", "b")):
    return Facts(by_rank=dict(enumerate(by_rank)), hosts=dict(enumerate(hosts)))


def test_memory_that_a_node_has_is_held_to_all_of_its_ranks():
    needs = [{"host": host, "need_gib": 6.0, "free_gib": 10.0} for host in ("a", "a", "b")]
    assert judge_host(facts(needs)).verdict == "FAILED"
    assert "on a to 2 ranks" in judge_host(facts(needs)).found
    assert judge_host(facts(needs[1:])).verdict == "ok"


def test_limit_of_a_job_counts_where_it_is_below_the_hosts(tmp_path):
    own = Path("/proc/self/cgroup").read_text().partition("0::")[2].splitlines()
    if not own:
        pytest.skip("no cgroups of version 2 here")
    folder = tmp_path / own[0].lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("1000\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    assert 400 in left_in_cgroups(tmp_path)


def test_shared_or_odd_or_ill_gpus_are_told():
    h200 = {"name": "H200", "host": "a", "uuid": "1", "health": {"temperature_c": "40"}}
    other = {**h200, "uuid": "2"}
    assert judge_device(facts([h200, other], "aa")) == Seen("2 x H200, at most 40 degrees Celsius")
    assert judge_device(facts([h200, h200], "aa")).verdict == "FAILED"
    assert judge_device(facts([h200, {**other, "name": "H100"}], "aa")).verdict == "FAILED"
    hot = {**other, "health": {"temperature_c": "95", "n_uncorrected": "3"}}
    told = judge_device(facts([h200, hot], "aa"))
    assert told.verdict == "warning"
    assert "rank 1 (a): 95 degrees Celsius, 3 uncorrected memory errors" in told.found


def test_slow_disk_and_many_epochs_are_warnings():
    slow = {"mib_per_s": 1.0, "checkpoint_bytes": 12 * 10**9}
    assert judge_writing(facts([slow, slow])).verdict == "warning"
    told = {"n_run": 500, "n_tokens": 100, "epochs": {"de": 4.5, "en": 0.5}}
    assert judge_epochs(facts([told])).verdict == "warning"


def test_loss_that_is_not_finite_fails():
    told = judge_steps(facts([[5.0, 4.0], [5.0, float("nan")]], "ab"))
    assert told == Seen("rank 1 (b): the loss is not finite", "FAILED", told.advice)


def test_worst_of_the_ranks_is_told_with_their_names():
    bad = Seen("no room", "FAILED", "make some")
    assert worst(facts([Seen("fine"), bad, bad])).found == "ranks 1-2 (a, b): no room"
    assert worst(facts([bad, bad, bad])) == bad
    assert worst(facts([Seen("fine"), Seen("good"), Seen("fine")])) == Seen("fine")
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_variable_set_otherwise_on_one_rank_is_a_warning():
    ours = {"versions": {"torch": "2.13"}, "variables": {}}
    told = judge_versions(facts([ours, {**ours, "variables": {"NCCL_ALGO": "Ring"}}], "ab"))
    assert told.verdict == "warning"
    assert told.found == "NCCL_ALGO Ring on rank 1 (b), not set elsewhere"


def test_unknown_words_are_told_with_the_verb(capsys):
    assert main(["doctor", "preflite"]) == 2
    assert "did you mean preflight?" in capsys.readouterr().err
    assert main(["doctor", "preflight", "timeout_s=0"]) == 2
    assert "timeout_s=0.0: give more than 0" in capsys.readouterr().err
