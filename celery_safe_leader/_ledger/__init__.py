"""The ledger in Redis: what was run last, and what is being published."""
