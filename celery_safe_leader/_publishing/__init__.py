"""From a beat entry to a message, and from there to the broker."""
