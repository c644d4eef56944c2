"""What is kept beside the ledger, and may be lost: no run depends on it."""
