"""First publication wins: later publications of a run are dropped."""
