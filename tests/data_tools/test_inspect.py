import json
import re
import shutil
from collections import Counter

import pytest

from data_tools.inspect_run import InspectOptions, inspect_step, open_loader, run
from data_tools.options import run_program
from helix.data.provenance import trace_rows
from helix.tokenizer import ByteTokenizer


@pytest.fixture
def run_dir(trained_run, tmp_path):
    """A copy of a run's folder, but for its weights, that a test may change."""
    return shutil.copytree(
        trained_run.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors")
    )


def test_every_step_is_told_as_it_was_read(trained_run):
    loader = open_loader(trained_run)
    for step in range(1, trained_run.training.n_steps + 1):
        batch = loader.next()
        found = inspect_step(InspectOptions(run_dir=trained_run.run_dir, step=step))
        assert found.held_to == f"step-{trained_run.training.n_steps:08d}"
        assert found.epochs == loader.epochs()
        for row in range(trained_run.training.batch_rows):
            ids = []
            for part in (part for part in found.parts if part.row == row):
                whole = loader.dataset.read(part.source, part.document).tolist()
                ids += whole[part.first_token : part.first_token + part.n_tokens]
            assert batch.tokens[row].tolist() == ids


def test_documents_have_the_names_they_came_with_and_their_own_text(trained_run):
    found = inspect_step(InspectOptions(run_dir=trained_run.run_dir, step=7, text=True))
    dataset = open_loader(trained_run).dataset
    names = {source: dataset.document_ids(source) for source in dataset.sources}
    for part in found.parts:
        assert part.id == names[part.source][part.document]
        assert part.id.startswith(f"{part.source}-")
        text = ByteTokenizer().decode(dataset.read(part.source, part.document).tolist())
        assert part.text
        assert part.text.strip("\ufffd") in text


def test_the_ranks_of_a_step_share_its_rows(trained_run):
    whole = inspect_step(InspectOptions(run_dir=trained_run.run_dir, step=3)).parts
    for world_size in (1, 2, 4):
        shares = [
            inspect_step(
                InspectOptions(
                    run_dir=trained_run.run_dir, step=3, rank=rank, world_size=world_size
                )
            ).parts
            for rank in range(world_size)
        ]
        assert {part.rank for part in shares[-1]} == {world_size - 1}
        joined = [(part.row, part.id, part.first_token) for share in shares for part in share]
        assert joined == [(part.row, part.id, part.first_token) for part in whole]


def test_no_token_is_read_twice_in_an_epoch_and_every_one_is_read(trained_run):
    loader = open_loader(trained_run)
    seen = Counter()
    while min(loader.epochs().values()) < 3:
        for piece in (piece for row in trace_rows(loader, 5) for piece in row):
            for token in range(piece.first_token, piece.first_token + piece.n_tokens):
                seen[piece.source, piece.epoch, piece.document, token] += 1
    assert set(seen.values()) == {1}
    for source, index in loader.dataset.indexes.items():
        for epoch in (0, 1):
            n_seen = sum(key[:2] == (source, epoch) for key in seen)
            assert n_seen == int((index.n_ids - 1).sum())


def test_tracing_leaves_the_loader_where_reading_leaves_it(trained_run):
    tracing, reading = open_loader(trained_run), open_loader(trained_run)
    for _ in range(40):
        trace_rows(tracing, reading.batch_rows)
        reading.next_rows()
        assert tracing.state_dict() == reading.state_dict()


def test_people_get_a_table_and_machines_json(trained_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(InspectOptions(run_dir=trained_run.run_dir, step=2, text=True))
    printed = capsys.readouterr().out
    assert re.search(r"de: [\d,]+ tokens in these rows; read \d", printed)
    assert "held to step-00000020" in printed
    run(InspectOptions(run_dir=trained_run.run_dir, step=2, json=True))
    found = json.loads(capsys.readouterr().out)
    assert sum(part["n_tokens"] for part in found["parts"]) == 4 * 32


def test_a_run_without_checkpoints_is_looked_up_and_says_so(run_dir):
    shutil.rmtree(run_dir / "checkpoints")
    assert inspect_step(InspectOptions(run_dir=str(run_dir), step=2)).held_to == ""


def test_a_batch_that_changed_on_the_way_is_refused(run_dir):
    config = (run_dir / "config.yaml").read_text()
    changed = re.sub(r"batch_rows: 4\b", "batch_rows: 8", config)
    (run_dir / "config.yaml").write_text(changed)
    with pytest.raises(ValueError, match=r"80 rows were read in 20 steps, .* batch changed"):
        inspect_step(InspectOptions(run_dir=str(run_dir), step=2, world_size=1))


def test_other_data_than_the_run_had_are_refused(run_dir):
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(re.sub(r"(?m)^seed: 0", "seed: 1", config))
    with pytest.raises(ValueError, match="seed: the checkpoint's position is in other data"):
        inspect_step(InspectOptions(run_dir=str(run_dir), step=2))


def test_a_position_that_look_up_does_not_give_is_refused(run_dir):
    for file in run_dir.glob("checkpoints/*/state.json"):
        state = json.loads(file.read_text())
        state["loader"]["cursors"]["de"][1] += 1
        file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="saved another position than this helix looks up"):
        inspect_step(InspectOptions(run_dir=str(run_dir), step=2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step=0"], "step=0: give at least 1"),
        (["step=21"], "step=21: the run has 20 steps"),
        (["step=2", "rank=1"], "rank=1: give 0 to 0"),
        (["step=2", "rank=-1"], "rank=-1: give 0 to 0"),
        (["step=2", "world_size=3"], "world_size=3: does not divide batch_rows=4"),
    ],
)
def test_bad_options_are_refused_in_one_line(trained_run, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        run_program(run, InspectOptions, [f"run_dir={trained_run.run_dir}", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"helix: {message}\n"


def test_a_run_that_does_not_say_its_ranks_is_asked_about(run_dir):
    (run_dir / "deepspeed.json").unlink()
    with pytest.raises(ValueError, match=r"give world_size=, a divisor of 4"):
        inspect_step(InspectOptions(run_dir=str(run_dir), step=2))
    assert inspect_step(InspectOptions(run_dir=str(run_dir), step=2, world_size=2)).parts
