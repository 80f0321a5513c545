"""Candidates: the documents that a first stage retrieves for each query, and how they are stored."""
