"""`crispbench latency`: put an engine under load, record every request, and judge the measurement."""
