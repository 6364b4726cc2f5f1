"""An examinee as lm-evaluation-harness asks for a model: through our own scores and samples."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from evals.examinee import Examinee
from evals.harness import HarnessOptions
from evals.sampling import continue_rows
from evals.scoring import encode_pair, score_continuations, score_rows
from helix.config import ConfigError
from helix.scoring import Row

ROUND_TOKENS = 64  # drawn before the next look for a stop string
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


class ExamineeLM(LM):
    """Answers the harness' three kinds of requests; every rank is given all of them.

    Where the harness' own model of transformers cuts a text to the trained context, an examinee
    reads it whole (or in its own windows).
    """

    def __init__(self, examinee: Examinee, options: HarnessOptions) -> None:
        super().__init__()
        self.examinee = examinee
        self.options = options

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Give the log-likelihood of each continuation, and whether greedy decoding says it."""
        rows = [self.pair_row(*asked(request)) for request in requests]
        scores = score_continuations(self.examinee, rows, self.options, title="score continuations")
        return [(-float(own.nats.sum()), bool((own.ranks == 0).all())) for own in scores]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Give the log-likelihood of each text, begun by bos; its end is not charged.

        `helix evaluate bits_per_byte` charges the end of a document, too.
        """
        tokenizer = self.examinee.tokenizer
        rows = [
            Row(np.array([tokenizer.bos_id, *tokenizer.encode(text)]))
            for (text,) in (asked(request) for request in requests)
        ]
        scores = score_rows(self.examinee, rows, self.options, title="score texts")
        return [-float(own.nats.sum()) for own in scores]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Go on from each text until a stop string, the document's end or the length asked for."""
        by_options: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_options[json.dumps(asked(request)[1], sort_keys=True)].append(number)
        texts = [""] * len(requests)
        for numbers in by_options.values():
            prompts = [self.prompt_ids(asked(requests[number])[0]) for number in numbers]
            found = self.continue_until(prompts, asked(requests[numbers[0]])[1])
            for number, text in zip(numbers, found, strict=True):
                texts[number] = text
        return texts

    def continue_until(
        self, prompts: Sequence[Sequence[int]], given: Mapping[str, Any]
    ) -> list[str]:
        """Go on from prompts that share their options."""
        told: dict[str, Any] = {**normalize_gen_kwargs(dict(given))}
        if unknown := sorted(told.keys() - KNOWN):
            raise ConfigError(f"harness_tasks: generation_kwargs.{unknown[0]} is not supported")
        stops = told["until"]
        n_left, temperature = int(told["max_gen_toks"]), float(told["temperature"])
        # what is drawn depends on the place in a batch: only greedy text may go on in rounds
        n_round = n_left if temperature else ROUND_TOKENS
        ids: list[list[int]] = [[] for _ in prompts]
        is_open = list(range(len(prompts)))
        while is_open and n_left:
            n_tokens = min(n_round, n_left)
            drawn = continue_rows(
                self.examinee,
                [[*prompts[number], *ids[number]] for number in is_open],
                n_tokens=n_tokens,
                temperature=temperature,
                top_p=float(told.get("top_p", 1.0)),
            )
            for number, own in zip(is_open, drawn, strict=True):
                ids[number] += own
            is_open = [
                number
                for number, own in zip(is_open, drawn, strict=True)
                if len(own) == n_tokens and not self.has_stop(ids[number], stops)
            ]
            n_left -= n_tokens
        return [postprocess_generated_text(self.text(own), stops, None) for own in ids]

    def has_stop(self, ids: Sequence[int], stops: Sequence[str]) -> bool:
        """Tell whether a text has come to a stop string."""
        text = self.text(ids)
        return any(stop and stop in text for stop in stops)

    def text(self, ids: Sequence[int]) -> str:
        """Write ids as text."""
        return self.examinee.tokenizer.decode(ids)

    def pair_row(self, prompt: str, continuation: str) -> Row:
        """Give the row of a prompt and its continuation."""
        row = encode_pair(self.examinee.tokenizer, prompt, continuation)
        if self.options.bos or row.n_given == 1:
            return row
        return Row(row.ids[1:], n_given=row.n_given - 1)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Give the ids of a text to go on from."""
        ids = self.examinee.tokenizer.encode(prompt)
        return [self.examinee.tokenizer.bos_id, *ids] if self.options.bos or not ids else ids


def asked(request: Instance) -> tuple[Any, ...]:
    """Give what a request asks with."""
    return tuple(request.args)
