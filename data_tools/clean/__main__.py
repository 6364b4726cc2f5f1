"""`python -m data_tools.clean`: the same as `helix data clean`."""

import sys

from data_tools.clean import CleanOptions, run
from data_tools.options import run_program

if __name__ == "__main__":
    run_program(run, CleanOptions, sys.argv[1:])
