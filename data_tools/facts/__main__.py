"""`python -m data_tools.facts`."""

import sys

from data_tools.facts import FactsOptions, run
from data_tools.options import run_program

if __name__ == "__main__":
    run_program(run, FactsOptions, sys.argv[1:])
