"""Tasks that run on the elected worker only."""
