"""Tests of celery-safe-leader."""
