"""Reading the ledger: all of it, some entries, or piece by piece by a standby."""
