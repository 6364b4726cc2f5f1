"""Verify: read all of a dataset and name every fault, with its shard and document."""

import json
import sys
import time
from dataclasses import asdict, dataclass

from data_tools.options import run_program
from helix.data import DataError
from helix.data.verification import Fault, Verification, verify


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of `verify`.

    Attributes:
        path: Folder of the dataset.
        json: Print what was found for machines.
    """

    path: str
    json: bool = False


def run(options: VerifyOptions) -> Verification:
    """Read a dataset and print its faults.

    Raises:
        DataError: There is a fault.
    """
    started = time.perf_counter()
    found = verify(options.path)
    seconds = time.perf_counter() - started
    if options.json:
        json.dump(asdict(found) | {"seconds": seconds}, sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        for fault in found.faults:
            print(format_fault(fault))
        print(
            f"{options.path}: {found.n_files} files, {found.n_documents:,} documents, "
            f"{found.n_file_bytes / 1e6:,.1f} MB read in {seconds:.1f} s: "
            f"{len(found.faults) or 'no'} fault{'s' if len(found.faults) != 1 else ''}"
        )
    if found.faults:
        raise DataError(
            f"{options.path}: {len(found.faults)} faults; copy the files named above again from "
            "where the dataset was made, or make the dataset again"
        )
    return found


def format_fault(fault: Fault) -> str:
    """Write a fault as one line."""
    document = "" if fault.document is None else f", document {fault.document}"
    source = f" (source {fault.source!r}{document})" if fault.source else ""
    return f"{fault.file}{source}: {fault.problem}"


if __name__ == "__main__":
    run_program(run, VerifyOptions, sys.argv[1:])
