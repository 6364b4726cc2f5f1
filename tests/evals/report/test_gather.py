import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from evals.contract import read_results, save_results
from evals.report.abilities import comparable, facts_section, recall_section
from evals.report.blocks import Figure, Missing
from evals.report.events import count_events
from evals.report.evidence import Evidence, collect, read, set_of, shares_set
from evals.report.gather import gather
from evals.report.held_out import bits_rows
from evals.report.missing import missing_parts
from evals.report.sheet import list_warnings
from evals.report.words import NOTHING
from helix.config import ConfigError
from helix.data.files import hash_file
from helix.training.metrics import metrics_path
from tests.evals.report import made


@pytest.fixture
def bare(tmp_path):
    """A folder that holds metrics.jsonl alone."""
    made.write_metrics(tmp_path / "bare", hurt=False)
    return tmp_path / "bare"


def test_a_trained_run_is_read_whole(trained_run):
    run = gather(trained_run.run_dir)
    newest = Path(trained_run.run_dir) / "checkpoints" / "step-00000020" / "manifest.json"
    assert run.problems == {}
    assert run.checkpoint is not None
    assert run.dataset is not None
    assert (run.last_step, run.n_steps_planned) == (20, 20)
    assert run.checkpoint.digest == hash_file(newest)
    assert run.dataset.fingerprint == run.checkpoint.loader["identity"]["data.path"]
    assert len(run.validations) == 3


def test_metrics_alone_are_a_run(bare):
    run = gather(str(bare))
    assert (run.config, run.dataset, run.checkpoint) == (None, None, None)
    assert set(run.problems) == {"config", "dataset", "checkpoint"}
    assert run.last_step == 300


def test_a_folder_without_figures_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run \(no metrics.jsonl\)"):
        gather(str(tmp_path))


def test_a_config_that_cannot_be_read_is_told(bare):
    (bare / "config.yaml").write_text("preset: [")
    assert "not YAML" in gather(str(bare)).problems["config"]


def test_data_that_lie_in_the_run_s_folder_are_found_there(trained_run, tmp_path):
    run_dir = tmp_path / "moved"
    shutil.copytree(trained_run.run_dir, run_dir, ignore=shutil.ignore_patterns("*.safetensors"))
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace(trained_run.data.path, "/gone/away"))
    assert gather(str(run_dir)).dataset is None
    shutil.copytree(trained_run.data.path, run_dir / "data")
    assert gather(str(run_dir)).dataset is not None


def test_events_are_told_in_the_order_of_steps(gathered):
    run, _ = gathered
    assert count_events(run.events) == {"skipped": 3, "rolled back": 1, "started again": 1}
    assert [event.step for event in run.events] == [121, 122, 122, 180, 201]
    assert "2 of web-de, 1 of web-en" in run.events[0].told
    assert run.events[2].to_step == 100


def test_a_skipped_step_without_an_incident_is_an_event_too(bare):
    lines = metrics_path(bare).read_text().splitlines()
    lines.append(json.dumps(json.loads(lines[-2]) | {"step": 301, "train/is_step_applied": 0.0}))
    metrics_path(bare).write_text("\n".join(lines) + "\n")
    assert [event.told for event in gather(str(bare)).events] == ["skipped; its reason is lost"]


def test_results_are_parted_by_whose_they_are(gathered):
    _, evidence = gathered
    assert set(evidence.own) == {"bits_per_byte", "facts", "recall", "decoding", "harness"}
    assert [result.subject.name for result in evidence.others] == ["SmolLM2-135M", "attention_400m"]


def test_a_result_of_the_same_checkpoint_is_the_run_s_wherever_it_lay(trained_run):
    run = gather(trained_run.run_dir)
    assert run.checkpoint is not None
    elsewhere = made.subject("/another/place", checkpoint=run.checkpoint.digest)
    path = Path(trained_run.run_dir).parent / "elsewhere.json"
    save_results([made.recall_result(elsewhere)], path)
    assert "recall" in collect(run, str(path)).own


def test_the_newest_step_is_shown_and_fast_kernels_before_reference(gathered, tmp_path):
    run, _ = gathered
    old, new = (made.subject(run.run_dir, step=step) for step in (200, 300))
    slow = made.subject(run.run_dir, step=300)
    slow = dataclasses.replace(slow, backends={"gla": "reference"})
    results = [made.recall_result(own) for own in (new, slow, old)]
    save_results([*results, results[0]], tmp_path / "r.json")
    evidence = collect(run, str(tmp_path / "r.json"))
    assert evidence.own["recall"].subject == new
    assert len(evidence.older) == 2


def test_a_checkpoint_that_is_there_comes_before_another_run_s_of_this_folder(
    trained_run, tmp_path
):
    run = gather(trained_run.run_dir)
    assert run.checkpoint is not None
    newest = made.subject(run.run_dir, step=20, checkpoint=run.checkpoint.digest)
    gone = made.subject(run.run_dir, step=300)
    for name, results in (("both", [newest, gone]), ("gone", [gone])):
        save_results([made.recall_result(own) for own in results], tmp_path / f"{name}.json")
    evidence = collect(run, str(tmp_path / "both.json"))
    assert evidence.own["recall"].subject == newest
    told = missing_parts(run, collect(run, str(tmp_path / "gone.json")))
    assert any("of a checkpoint that is there no longer" in why for _, why, _ in told)


def test_controls_of_one_name_are_told_apart(gathered):
    run, evidence = gathered
    ours = evidence.own["bits_per_byte"]
    peers = [
        made.bits_result(made.subject("checkpoint-1000", step=None, checkpoint=c * 64), worse=worse)
        for c, worse in (("a", 0.1), ("b", 0.2))
    ]
    rows = bits_rows(run, Evidence(own={"bits_per_byte": ours}, others=peers))
    assert {tuple(row.controls) for row in rows} == {("checkpoint-1000 (1)", "checkpoint-1000 (2)")}


def test_figures_of_throughput_beside_results_are_passed_over_and_named(gathered, tmp_path):
    run, evidence = gathered
    save_results(list(evidence.own.values()), tmp_path / "suite.json")
    (tmp_path / "speed.json").write_text(json.dumps({"device": "cpu", "sections": {}}))
    found = collect(run, str(tmp_path))
    assert found.own == evidence.own
    assert "speed.json: figures of evaluate throughput" in list_warnings(found)[-1]
    with pytest.raises(ConfigError, match=r"speed.json: figures of evaluate throughput, no result"):
        read_results(tmp_path / "speed.json")


def test_results_that_are_not_there_are_refused(gathered):
    with pytest.raises(ConfigError, match="results=/nowhere: no such file or folder"):
        collect(gathered[0], "/nowhere")


def test_a_measure_of_a_source_needs_that_source_s_set_alone():
    own, other = made.subject("a"), made.subject("b")
    ours, theirs = made.bits_result(own), made.bits_result(other)
    theirs.sets["books-de"] = "0" * 64
    assert shares_set(ours, theirs, "source/web-de/bits_per_byte")
    assert not shares_set(ours, theirs, "source/books-de/bits_per_byte")
    assert not shares_set(ours, theirs, "language/de/bits_per_byte")


def test_a_measure_is_of_the_narrowest_part_that_it_lies_in():
    parts = frozenset({"de", "needle/512", "needle/1024"})
    assert set_of("needle/512/accuracy", parts) == "needle/512"
    assert set_of("needle/whole/1024/accuracy", parts) == "needle/1024"
    assert set_of("source/de/bits_per_byte", parts) == "de"
    assert set_of("language/de/bits_per_byte", parts) is None


def test_the_worse_end_of_an_interval_is_the_cautious_one():
    cost, hits = read(made.bits(1.0)), read(made.shares(0.5, 100, 0))
    assert cost.worse_end == cost.high > cost.value
    assert hits.worse_end == hits.low < hits.value


def test_a_control_on_other_rows_is_not_drawn_beside_the_run(gathered):
    run, evidence = gathered
    ours = evidence.own["recall"]
    theirs = made.recall_result(made.subject("attention"))
    assert comparable(ours, theirs).measures.keys() == ours.measures.keys()
    theirs.sets["needle/512"] = "0" * 64
    left_out = ours.measures.keys() - comparable(ours, theirs).measures.keys()
    assert left_out == {name for name in ours.measures if name.startswith("needle/512")} | {
        "needle/among_candidates/512/accuracy"
    }
    other = dataclasses.replace(theirs, sets=dict.fromkeys(theirs.sets, "0" * 64))
    section = recall_section(run, Evidence(own={"recall": ours}, others=[other]))
    told = [block.why for block in section.blocks if isinstance(block, Missing)]
    assert "That of attention, step 300 is of other rows." in told[0]


def test_facts_stand_beside_those_of_another_model_where_the_items_are_the_same(gathered):
    run, evidence = gathered
    ours = evidence.own["facts"]
    theirs = made.facts_result(made.subject("attention"))
    part = next(iter(ours.sets))
    theirs.sets[part] = "0" * 64
    section = facts_section(run, Evidence(own={"facts": ours}, others=[theirs]))
    profile = next(block for block in section.blocks if isinstance(block, Figure))
    assert profile.caption.endswith("Hollow marks: attention, step 300")
    assert profile.table is not None
    assert profile.table.columns[-1].name == "attention, step 300"
    told = {row[0]: (row[2], row[-1]) for row in profile.table.rows}
    assert {other for path, (_, other) in told.items() if path.startswith(f"{part}/")} == {NOTHING}
    rest = [pair for path, pair in told.items() if not path.startswith(f"{part}/")]
    assert rest
    assert all(own == other for own, other in rest)
