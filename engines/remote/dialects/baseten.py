"""Baseten Embeddings Inference: TEI's /predict behind a url that ends in /sync, with its own authorization scheme.

https://github.com/basetenlabs/truss-examples: `Authorization: Api-Key KEY`; its client sends 128 texts at once.
"""

from dataclasses import replace

from engines.remote.dialects import tei

DIALECT = replace(tei.DIALECT, auth="Api-Key", url_ending="/sync", batch_size=128)
