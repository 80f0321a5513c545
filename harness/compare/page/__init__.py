"""The report of `crispbench compare`."""
