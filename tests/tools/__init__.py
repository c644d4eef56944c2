"""Tools that trace and monitor, beside stock beat: ``python -m tests.tools``."""
