"""Figures computed from numbers alone: measures, statistics, percentiles. Nothing here reads or writes a file."""
