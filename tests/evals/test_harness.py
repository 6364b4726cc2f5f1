import importlib.util
import random

import numpy as np
import pytest
import torch

from evals.contract import read_results, save_results, to_json
from evals.examinee import open_examinee
from evals.harness import HarnessOptions, measure
from evals.options import Options
from helix.config import ConfigError
from tests.evals.tiny_peers import build, byte_level_tokenizer

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("needs pip install 'helix-pretraining[harness]'", allow_module_level=True)

from lm_eval.evaluator import evaluate as evaluate_by_harness
from lm_eval.models.huggingface import HFLM
from tokenizers import processors

from evals.compare import compare
from evals.harness_run import load_tasks, run_tasks

N_CONTEXT = 512
# what these libraries warn of is theirs
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

LETTERS = """
task: letters
custom_dataset: !function letters.load
output_type: generate_until
test_split: test
doc_to_text: text
doc_to_target: text
generation_kwargs: {until: ["e"], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""
TEXTS = """
task: texts
custom_dataset: !function letters.load
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
metadata: {version: 1}
"""
LETTERS_DATA = """
from datasets import Dataset


def load(**metadata):
    words = "der Fluss trägt die Brücke über den Hügel".split()
    return {"test": Dataset.from_list([{"text": " ".join(words[:n])} for n in range(1, 7)])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models whose tokenizer puts its bos before each text, and tasks of our own."""
    made = tmp_path_factory.mktemp("harness")
    tokenizer = byte_level_tokenizer(bos_token="<|end|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    for kind in ("llama", "gpt2"):
        build(kind, n_context=N_CONTEXT).save_pretrained(made / kind)
        tokenizer.save_pretrained(made / kind)
    (made / "letters.py").write_text(LETTERS_DATA, encoding="utf-8")
    (made / "letters.yaml").write_text(LETTERS, encoding="utf-8")
    (made / "texts.yaml").write_text(TEXTS, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def examinee(folder):
    opened = open_examinee(Options(model=str(folder / "llama")))
    opened.model.double()
    return opened


def options_of(folder, tasks, **own):
    return HarnessOptions(model=str(folder / "llama"), harness_tasks=tasks, **own)


def by_harness(examinee, folder, name, *, n_shot=0, limit=None, adds_bos=True):
    """The harness' own model of transformers, on the same weights."""
    tokenizer = byte_level_tokenizer(bos_token="<|end|>")
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|end|> $A", special_tokens=[("<|end|>", 0)]
        )
    model = HFLM(
        pretrained=examinee.model.model, tokenizer=tokenizer, batch_size=1, max_length=N_CONTEXT
    )
    tasks = load_tasks([name])
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=n_shot)
        task.set_fewshot_seed(seed=1234)
    return evaluate_by_harness(model, {"tasks": tasks}, limit=limit, bootstrap_iters=0)


def answers(samples):
    return [sample["resps"] for sample in samples]


@pytest.mark.parametrize("n_shot", [0, 2])
@pytest.mark.parametrize("bos", [True, False])
def test_our_numbers_equal_the_harness_on_a_shared_task(examinee, folder, bos, n_shot):
    name = "helix_facts_en"
    [run] = run_tasks(examinee, options_of(folder, name, limit=20, bos=bos, n_shot=n_shot))
    theirs = by_harness(examinee, folder, name, n_shot=n_shot, limit=20, adds_bos=bos)
    scored = zip(run.samples, theirs["samples"][name], strict=True)
    for ours, own in scored:
        assert ours["arguments"] == own["arguments"]
        for [(nats, is_greedy)], [(their_nats, their_greedy)] in zip(
            ours["resps"], own["resps"], strict=True
        ):
            assert nats == pytest.approx(their_nats, rel=1e-6)
            assert is_greedy == their_greedy
    for metric in ("acc", "acc_norm"):
        expected = theirs["results"][name][f"{metric},none"]
        assert run.measures[metric].value == pytest.approx(expected, abs=1e-6)
        assert run.aggregates[f"{metric},none"] == expected
        assert run.measures[metric].unit == "share"  # so that none of 3 right has an interval


def test_texts_cost_what_the_harness_says(examinee, folder):
    name = str(folder / "texts.yaml")
    [run] = run_tasks(examinee, options_of(folder, name))
    # where a tokenizer adds bos, the harness' own model begins a text with two and charges one
    theirs = by_harness(examinee, folder, name, adds_bos=False)
    expected = theirs["results"]["texts"]
    assert run.measures["bits_per_byte"].value == pytest.approx(
        expected["bits_per_byte,none"], rel=1e-6
    )
    assert run.unmeasured == ["word_perplexity"]
    assert run.aggregates["word_perplexity,none"] == pytest.approx(
        expected["word_perplexity,none"], rel=1e-6
    )


def test_greedy_text_ends_where_the_harness_ends_it(examinee, folder):
    name = str(folder / "letters.yaml")
    [run] = run_tasks(examinee, options_of(folder, name))
    theirs = by_harness(examinee, folder, name)["samples"]["letters"]
    assert answers(run.samples) == answers(theirs)
    assert any(len(text) > 1 for [[text]] in answers(run.samples))


def test_text_is_the_same_in_rounds(examinee, folder, monkeypatch):
    whole = run_tasks(examinee, options_of(folder, str(folder / "letters.yaml")))
    monkeypatch.setattr("evals.harness_model.ROUND_TOKENS", 3)
    rounds = run_tasks(examinee, options_of(folder, str(folder / "letters.yaml")))
    assert answers(whole[0].samples) == answers(rounds[0].samples)


def test_all_our_tasks_run_on_a_run_of_ours(trained_run, tmp_path):
    options = HarnessOptions(run_dir=trained_run.run_dir, limit=6)
    result = measure(open_examinee(options), options)
    assert {name.split("/")[0] for name in result.measures} == {
        "helix_agreement_de",
        "helix_agreement_en",
        "helix_facts_de",
        "helix_facts_en",
    }
    assert result.sets.keys() == {name.split("/")[0] for name in result.measures}
    assert all(len(own.numerators) == 6 for own in result.measures.values())
    save_results([result], tmp_path / "out.json")
    assert to_json(read_results(tmp_path / "out.json")) == to_json([result])


def test_twice_gives_the_same_json_and_disturbs_no_generator(examinee, folder):
    options = options_of(folder, "helix_facts_de", limit=5, n_shot=1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second = (to_json([measure(examinee, options)]) for _ in range(2))
    assert first == second
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == states


def run_on_rank(run_dir):
    options = HarnessOptions(run_dir=run_dir, limit=4, batch_tokens=300)
    return to_json([measure(open_examinee(options), options)])


@pytest.mark.ranks
def test_two_ranks_give_the_identical_result(trained_run, two_ranks):
    alone = run_on_rank(trained_run.run_dir)
    assert two_ranks.run(run_on_rank, trained_run.run_dir) == [alone, alone]


def test_results_of_one_set_compare_and_of_others_do_not(examinee, folder):
    first = measure(examinee, options_of(folder, "helix_facts_de", limit=8))
    other = open_examinee(Options(model=str(folder / "gpt2")))
    second = measure(other, options_of(folder, "helix_facts_de", limit=8))
    assert [own.measure for own in compare(first, second)] == [
        "helix_facts_de/acc",
        "helix_facts_de/acc_norm",
    ]
    with pytest.raises(ConfigError, match="helix_facts_de: the sets differ"):
        compare(first, measure(other, options_of(folder, "helix_facts_de", limit=7)))
    with pytest.raises(ConfigError, match="bos: True and False"):
        compare(first, measure(other, options_of(folder, "helix_facts_de", limit=8, bos=False)))


def test_the_right_answer_stands_at_every_place():
    for language in ("de", "en"):
        [task] = load_tasks([f"helix_facts_{language}"]).values()
        documents = list(task.eval_docs)
        labels = [own["label"] for own in documents if len(own["choices"]) == 4]
        assert all(labels.count(place) > len(labels) / 5 for place in range(4))
        for own in documents:
            assert len(set(own["choices"])) == len(own["choices"]) > 2


def test_agreement_asks_for_both_numbers_alike():
    for language in ("de", "en"):
        [task] = load_tasks([f"helix_agreement_{language}"]).values()
        labels = [document["label"] for document in task.eval_docs]
        assert labels.count(0) == labels.count(1) == 250
        prompts = [document["prompt"] + document["choices"][0] for document in task.eval_docs]
        assert len(set(prompts)) == len(prompts)


def test_a_task_that_is_not_there_is_named_with_its_nearest(examinee, folder, monkeypatch):
    monkeypatch.setattr("evals.harness_run.THEIR_TASKS", folder)
    with pytest.raises(ConfigError, match=r"=leters: no such task .*did you mean letters\?"):
        run_tasks(examinee, options_of(folder, "leters"))


def test_the_harness_own_tasks_are_found_by_name_beside_ours(folder, monkeypatch):
    monkeypatch.setattr("evals.harness_run.THEIR_TASKS", folder)
    assert load_tasks(["letters", "helix_facts_de"]).keys() == {"letters", "helix_facts_de"}


def test_a_task_whose_data_lie_on_the_hub_is_refused_without_network(
    examinee, folder, monkeypatch, tmp_path
):
    path = folder / "hub.yaml"
    data = "dataset_path: someone/something"
    path.write_text(LETTERS.replace("custom_dataset: !function letters.load", data))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("socket.socket.connect", refuse_connection)
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        run_tasks(examinee, options_of(folder, str(path)))


def refuse_connection(*arguments):
    raise AssertionError("the network was asked")


def test_a_generation_option_that_is_not_known_is_refused(examinee, folder):
    path = folder / "beams.yaml"
    path.write_text(LETTERS.replace("max_gen_toks", "num_beams"), encoding="utf-8")
    with pytest.raises(ConfigError, match="num_beams is not supported"):
        run_tasks(examinee, options_of(folder, str(path)))
