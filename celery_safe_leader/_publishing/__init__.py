"""From an entry of the schedule to a message, and from there to the broker."""
