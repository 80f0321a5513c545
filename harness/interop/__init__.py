"""Interoperation with other tools: our engines run inside mteb and beir, and our runs become their files."""
