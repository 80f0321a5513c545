"""The harness measures engines on benchmarks and reports the evidence. Importing it does not import torch."""
