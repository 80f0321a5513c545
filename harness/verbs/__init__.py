"""Verbs that need no room of their own: measure, quantize, list and doctor."""
