"""Four workers and three beats under random faults of all kinds."""
