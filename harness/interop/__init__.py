"""To and from other tools: our engines inside mteb and beir, our runs as their files."""
