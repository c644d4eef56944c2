"""Child processes that never outlive the test run, and waiting for what they do."""

from tests.support.processes.child import Child, Line, clean_environment
from tests.support.processes.children import Children
from tests.support.processes.waiting import wait_until

__all__ = ["Child", "Children", "Line", "clean_environment", "wait_until"]
