"""Offline evaluations: a checkpoint or a text in, figures out.

A new evaluation is one module, whose EVALUATION says what it is, and one line here.
"""

EVALUATIONS = {
    "bits_per_byte": "evals.bits_per_byte",
    "facts": "evals.facts",
}
