"""Whether all is well: for probes, and for people who want to know what to do."""
