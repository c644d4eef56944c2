"""``leader ledger …``: for another Redis, another key, or another name of an entry."""
