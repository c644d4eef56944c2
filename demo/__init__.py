"""Three beats of the example project, of which one leads: ``python -m demo``."""
