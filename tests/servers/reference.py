"""mxbai-rerank in an environment of its own: token ids and scores of pairs, as JSON. Run by path, imports nothing here.

Usage: python tests/servers/reference.py FOLDER < PAIRS > ANSWERS, with PAIRS a list of objects with query, document,
instruction, plain (special-token strings are plain text, as in crispbench) and scored (compute the score, too).
"""

import json
import sys
from typing import Any


def main() -> None:
    import torch
    from mxbai_rerank import MxbaiRerankV2  # type: ignore[import-not-found]

    model = MxbaiRerankV2(sys.argv[1], device="cpu", torch_dtype=torch.float32)

    def answer(pair: dict[str, Any]) -> dict[str, Any]:
        model.tokenizer.split_special_tokens = pair["plain"]  # the template's own ids were made before
        texts = {"queries": [pair["query"]], "documents": [pair["document"]], "instruction": pair["instruction"]}
        prompt = model.prepare_inputs(**texts)
        ids = prompt["input_ids"][0][prompt["attention_mask"][0].bool()].tolist()
        return {"ids": ids, "score": float(model.predict(**texts)[0]) if pair["scored"] else None}

    json.dump([answer(pair) for pair in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
