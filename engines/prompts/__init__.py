"""Prompts of templated classifiers: templates as data, their token ids, and the cache of token ids."""
