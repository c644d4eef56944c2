"""What is gone through: who leads after whom, how many runs are due, when workers take them."""

from __future__ import annotations

from tests.model.ledger.both_ways import TransactionalLeader, WriteAheadLeader
from tests.model.ledger.leader import Leader

__all__ = ["KINDS", "SHAPES_OF_FOUR", "SHAPES_OF_TWO", "WITH_OLDER", "WORKERS"]

WORKERS = ("eager", "fifo", "lifo", "mixed")

SHAPES_OF_TWO = {"one entry, two moments": (1, 2, 1), "two entries at once": (2, 1, 2)}
SHAPES_OF_FOUR = {
    "one entry, four moments": (1, 4, 1),
    "two entries, two moments": (2, 2, 2),
    "two entries, two moments, one by one": (2, 2, 1),
    "four entries at once": (4, 1, 4),
}

KINDS: dict[str, tuple[type[Leader], type[Leader]]] = {
    "both transactional": (TransactionalLeader, TransactionalLeader),
    "both write-ahead": (WriteAheadLeader, WriteAheadLeader),
    "transactional, then write-ahead": (TransactionalLeader, WriteAheadLeader),
    "the older release, then transactional": (Leader, TransactionalLeader),
    "transactional, then the older release": (TransactionalLeader, Leader),
}
"""Who leads first, and who after it."""

WITH_OLDER = {name: kinds for name, kinds in KINDS.items() if Leader in kinds}
