"""Engines that score with models of sentence-transformers, and the store of their document vectors."""
