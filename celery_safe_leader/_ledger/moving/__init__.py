"""A ledger that is read whole, replaced by another one, or has an entry renamed."""
