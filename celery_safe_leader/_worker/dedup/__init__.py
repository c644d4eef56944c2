"""First publication wins: second publications of a run are dropped."""
