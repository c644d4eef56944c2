"""When something is due: the moments of a schedule, and what becomes of missed ones. Pure."""
