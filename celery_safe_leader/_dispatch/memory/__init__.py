"""What is known of the ledger: a leader's memory, a standby's copy, and their upkeep."""
