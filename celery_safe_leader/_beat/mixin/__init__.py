"""Any other scheduler class, in any number."""
