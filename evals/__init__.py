"""Offline evaluations: a checkpoint or a text in, figures out.

A new evaluation is one module, whose EVALUATION says what it is, and one line here.
"""

# Of these the suite runs all that need no further package.
EVALUATIONS = {
    "bits_per_byte": "evals.bits_per_byte",
    "facts": "evals.facts",
    "recall": "evals.recall",
    "decoding": "evals.decoding",
    "harness": "evals.harness",
}
SUITE = tuple(name for name in EVALUATIONS if name != "harness")
