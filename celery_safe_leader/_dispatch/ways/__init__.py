"""The two ways in which due runs are published, and which of them is taken."""
