"""The report of `crispbench compare`."""

FOREST = "forest"  # name of the plot
