"""A Django app with tenants, for ``tests.tools``."""
