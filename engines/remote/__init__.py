"""The remote engine: scores over HTTP. `dialects` holds what differs between servers."""
