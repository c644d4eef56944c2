"""Makes clients of redis-py from a URL or a client of the caller."""
