"""Candidates: the documents that a first stage finds for each query, and how they are stored."""
