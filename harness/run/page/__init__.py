"""The report of `crispbench run`."""
