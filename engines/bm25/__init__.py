"""The BM25 engine: its index on disk and its analysis of text. Stored candidates depend on the code in this room."""
