"""`crispbench run`: score every benchmark with every engine, store the scores, and compute the rows of the report."""
