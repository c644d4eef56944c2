"""Entries of the schedule, as Celery and the user give them."""
