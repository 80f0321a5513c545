"""The report of `crispbench latency`."""
