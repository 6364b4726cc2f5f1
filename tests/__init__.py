"""Tests of helix, and the checker that pytest runs on every annotation: an int may be a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
