"""Whether this process can do a leader's work at all, or another should try."""
