"""What is added to workers. Private."""
