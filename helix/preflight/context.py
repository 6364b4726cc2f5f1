"""Where a rank stands: its number and node, its run, and the board on which ranks leave word.

The board is the store that the process group met over, on a connection of its own: what is stuck
in a collective, or has lost its peers, still reads and writes there.
"""

import itertools
import json
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from helix import distributed
from helix.config import RunConfig

_numbers = itertools.count()  # of the boards that this process made: all ranks make as many


@dataclass(frozen=True, kw_only=True)
class PreflightConfig:
    """Options of `helix doctor preflight`; anything else on the line is the run's.

    Attributes:
        hashes: Read all of the dataset and check every hash, on every node.
        timeout_s: A check that has not ended by then on a rank has failed; hashes take their time.
        json: Print JSON instead of a table.
    """

    hashes: bool = False
    timeout_s: float = 300.0
    json: bool = False

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s={self.timeout_s}: give more than 0")


class Board:
    """Words that ranks leave for each other, once each."""

    def __init__(self, store: Any, name: str) -> None:
        self.store = store
        self.name = name

    @classmethod
    def open(cls) -> "Board":
        """Connect; the process group must exist."""
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
        )
        return cls(store, f"helix-preflight-{next(_numbers)}")

    def post(self, key: str, value: Any) -> None:
        """Leave a word, fit for JSON."""
        self.store.set(f"{self.name}/{key}", json.dumps(value))

    def read(self, key: str, *, timeout_s: float) -> Any:
        """Wait for a word.

        Raises:
            TimeoutError: Nobody left it in time.
        """
        name = f"{self.name}/{key}"
        try:
            self.store.wait([name], timedelta(seconds=max(timeout_s, 0.01)))
        except dist.DistStoreError:
            raise TimeoutError(f"no word of {key} in {timeout_s:.0f} s") from None
        return json.loads(self.store.get(name))

    def count(self, key: str) -> int:
        """Give how often ranks called this for a key before; the same number to none of them."""
        return self.store.add(f"{self.name}/{key}", 1) - 1


@dataclass(kw_only=True)
class Context:
    """What a check looks at.

    Attributes:
        words: The run's settings, as they were typed.
        number_on_node: Of the ranks on this host, from 0, in the order in which they came:
            LOCAL_RANK is 0 on all of them where each sees one GPU alone.
        run: What they make; None until they were read, and where they cannot be.
    """

    words: list[str]
    options: PreflightConfig
    board: Board
    rank: int
    world_size: int
    number_on_node: int
    host: str
    run: RunConfig | None = None

    @classmethod
    def here(cls, words: list[str], options: PreflightConfig) -> "Context":
        """Describe this rank; the process group must exist."""
        board, host = Board.open(), socket.gethostname()
        return cls(
            words=words,
            options=options,
            board=board,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            number_on_node=board.count(f"host/{host}"),
            host=host,
        )

    @property
    def of_run(self) -> RunConfig:
        """Give the run, to a check that is made only where there is one."""
        assert self.run is not None
        return self.run
