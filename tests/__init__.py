"""The checker that pytest runs on every annotation of helix: beartype, with an int allowed for a float (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
