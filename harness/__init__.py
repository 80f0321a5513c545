"""The harness: a benchmark and an engine in, evidence out. Importing it imports no torch."""
