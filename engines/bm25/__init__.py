"""The BM25 engine: its index on disk and its analysis of text. The code here decides which candidates it finds."""
