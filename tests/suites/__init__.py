"""Other projects' own test suites, with classes of ours in place of theirs.

``python -m tests.suites`` compares what comes of each test with the table in
``docs/reference/suites.md``.
"""
