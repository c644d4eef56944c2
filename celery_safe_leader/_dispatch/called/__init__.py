"""Runs that other people's code sends, through the scheduler's own methods."""
