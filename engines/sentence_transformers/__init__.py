"""Engines for models of sentence-transformers, and the store of document vectors."""
