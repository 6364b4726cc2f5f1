import json
from typing import NamedTuple

import pytest
import torch

from helix.kernels import tuned
from helix.kernels.tuned import CONSTANTS, TunedError
from helix.kernels.tuned.candidates import CANDIDATES
from helix.kernels.tuned.search import choices, descend


class Launch(NamedTuple):
    num_warps: int
    num_stages: int
    maxnreg: int | None = None


DEFAULT = Launch(4, 2)


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A GPU by name, and a folder of shipped files that is empty at first."""

    def name(device: str):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device)
        monkeypatch.setattr(tuned, "FOLDER", tmp_path)
        monkeypatch.delenv("HELIX_TUNED", raising=False)
        return tmp_path

    return name


def write(file, values):
    file.write_text(json.dumps({"values": values}), encoding="utf-8")
    return file


def test_without_a_gpu_the_default_holds_whatever_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HELIX_TUNED", str(tmp_path / "absent.json"))
    assert tuned.tuned("gla.WALK", DEFAULT) is DEFAULT
    assert tuned.describe() == "defaults, measured on one H200"


def test_device_without_a_file_takes_the_default(device):
    device("NVIDIA A100-SXM4-80GB")
    assert tuned.tuned("gla.WALK", DEFAULT) is DEFAULT


def test_file_of_the_device_changes_the_fields_that_it_names(device):
    folder = device("NVIDIA H200")
    write(folder / "nvidia_h200.json", {"gla": {"WALK": {"num_stages": 3, "maxnreg": 168}}})
    assert tuned.tuned("gla.WALK", DEFAULT) == Launch(4, 3, 168)
    assert tuned.tuned("gla.RELATE", DEFAULT) is DEFAULT
    assert tuned.tuned("ssd.WALK", DEFAULT) is DEFAULT
    assert tuned.describe() == str(folder / "nvidia_h200.json")


def test_numbers_dicts_and_tables_by_width_are_changed_alike(device):
    values = {
        "ssd": {"WALK_REGISTERS": 128},
        "conv": {"FORWARD": {"RUN": 128}},
        "sparse": {"FORWARD": {"128": {"num_warps": 8}}},
    }
    write(device("NVIDIA H200") / "nvidia_h200.json", values)
    assert tuned.tuned("ssd.WALK_REGISTERS", 168) == 128
    assert tuned.tuned("conv.FORWARD", {"RUN": 64, "BC": 256}) == {"RUN": 128, "BC": 256}
    table = {64: DEFAULT, 128: DEFAULT}
    assert tuned.tuned("sparse.FORWARD", table) == {64: DEFAULT, 128: Launch(8, 2)}
    assert table == {64: DEFAULT, 128: DEFAULT}


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA H200 NVL", "NVIDIA GH200 480GB"])
def test_devices_of_one_chip_share_a_file(device, name):
    folder = device(name)
    write(folder / "nvidia_h200.json", {"ssd": {"WALK_REGISTERS": 128}})
    assert tuned.tuned("ssd.WALK_REGISTERS", 168) == 128
    own = folder / f"{tuned.slug_of(name)}.json"
    write(own, {"ssd": {"WALK_REGISTERS": 232}})
    assert tuned.tuned("ssd.WALK_REGISTERS", 168) == 232


def test_file_that_the_environment_names_comes_before_the_shipped_one(device, monkeypatch):
    folder = device("NVIDIA H200")
    write(folder / "nvidia_h200.json", {"ssd": {"WALK_REGISTERS": 128}})
    monkeypatch.setenv("HELIX_TUNED", str(write(folder / "own.json", {})))
    assert tuned.tuned("ssd.WALK_REGISTERS", 168) == 168


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"glass": {}}, "glass: no such name; known: gla, ssd"),
        ({"gla": {"WALKS": {}}}, "gla: WALKS: no such name; known: RELATE, WALK"),
        ({"gla": {"WALK": {"warps": 4}}}, "gla.WALK: warps: no such name; known: num_warps"),
        ({"gla": {"WALK": {"num_warps": "4"}}}, "gla.WALK.num_warps='4': give a whole number"),
        ({"gla": {"WALK": {"num_warps": None}}}, "gla.WALK.num_warps=None: give a whole"),
        ({"gla": {"WALK": 4}}, "gla.WALK=4: give values by name"),
        ([], "give values by name"),
    ],
)
def test_file_that_does_not_fit_is_refused_with_the_place(device, values, message):
    write(device("NVIDIA H200") / "nvidia_h200.json", values)
    with pytest.raises(TunedError, match=message):
        tuned.tuned("gla.WALK", DEFAULT)


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_file_that_is_none_of_launch_constants_is_refused(device, monkeypatch, text):
    file = device("NVIDIA H200") / "own.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("HELIX_TUNED", str(file))
    with pytest.raises(TunedError, match=r"own.json: no file of launch constants"):
        tuned.tuned("gla.WALK", DEFAULT)


def test_refusal_is_no_import_error_that_would_pass_for_a_missing_backend():
    assert not issubclass(TunedError, ImportError)


def test_every_searched_constant_may_be_set_and_has_few_candidates():
    for family, constants in CANDIDATES.items():
        assert set(constants) <= set(CONSTANTS[family])
        assert all(len(tried) <= 6 for tried in constants.values())
    assert set(CANDIDATES) == set(CONSTANTS)


class Machine:
    """Takes so long for each value of a and b, and is wrong at some."""

    def __init__(self, times, wrong=()):
        self.times, self.wrong, self.timed, self.trials = times, wrong, [], []

    def check(self, values):
        bad = [v for v in values.values() if v in self.wrong]
        return f"wrong at {bad[0]}" if bad else ""

    def time_ms(self, values):
        self.timed.append(dict(values))
        return sum(self.times[value] for value in values.values())

    def descend(self, start, candidates):
        return descend(
            start, candidates, check=self.check, time_ms=self.time_ms, report=self.trials.append
        )


def test_search_takes_the_fastest_of_each_constant_in_turn():
    machine = Machine({"a0": 10, "a1": 8, "a2": 7, "b0": 10, "b1": 11, "b2": 5})
    found = machine.descend({"a": "a0", "b": "b0"}, {"a": ["a1", "a2"], "b": ["b1", "b2"]})
    assert found == {"a": "a2", "b": "b2"}
    assert machine.timed[-1] == {"a": "a2", "b": "b2"}
    assert [trial.value for trial in machine.trials] == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_search_never_takes_nor_times_what_is_wrong():
    machine = Machine({"a0": 10, "a1": 1, "a2": 9}, wrong=["a1"])
    assert machine.descend({"a": "a0"}, {"a": ["a1", "a2"]}) == {"a": "a2"}
    assert {"a": "a1"} not in machine.timed
    assert [trial.refusal for trial in machine.trials] == ["", "wrong at a1", ""]


def test_search_keeps_a_value_that_no_other_beats_by_two_percent():
    machine = Machine({"a0": 100, "a1": 98.5, "a2": 98.1})
    assert machine.descend({"a": "a0"}, {"a": ["a1", "a2"]}) == {"a": "a0"}
    assert Machine({"a0": 100, "a1": 97.9}).descend({"a": "a0"}, {"a": ["a1"]}) == {"a": "a1"}


def test_search_keeps_a_value_all_of_whose_candidates_are_wrong_and_those_without_any():
    machine = Machine({"a0": 10, "b0": 10}, wrong=["a1", "a2"])
    start = {"a": "a0", "b": "b0"}
    assert machine.descend(start, {"a": ["a1", "a2"]}) == start


def test_search_does_not_begin_where_the_kernels_are_wrong_already():
    with pytest.raises(RuntimeError, match="wrong before anything is changed: wrong at a0"):
        Machine({}, wrong=["a0"]).descend({"a": "a0"}, {"a": ["a1"]})


def test_value_that_a_constant_has_is_tried_first_and_once():
    assert choices(2, [1, 2, 3]) == [2, 1, 3]
