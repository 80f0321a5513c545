"""crispbench check: is what is recorded now worse than what was recorded before?"""
