"""The remote engine: scores over HTTP. `dialects` holds the differences between servers."""
