"""The integration tests on other releases of Celery, kombu, redis-py and Python.

``python -m tests.matrix`` makes an environment for each row under ``.matrix/``, keeps it for the
next time, runs a choice of the tests in it, and prints a table.
"""
