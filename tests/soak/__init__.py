"""Minutes of faults, counted at the broker's lists: ``make soak``."""
