"""`python -m data_tools.value`: the same as `helix data value`."""

import sys

from data_tools.options import run_program
from data_tools.value import ValueOptions, run

if __name__ == "__main__":
    run_program(run, ValueOptions, sys.argv[1:])
