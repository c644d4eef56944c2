"""The election with one rule taken out, to see that the tests notice."""
