"""The demo's model before training: its shape, its first embeddings and its wired attention heads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from scripts.demo_data import SPECIAL_TOKENS, Array

HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 256, 4, 8, 4, 288, 8000
CONTENT = 248  # leading dimensions hold a token's meaning; then importance, one per special token, document flag
IMPORTANCE, SPECIAL, FLAG, MATCHED = 248, 249, 252, 253
SPECIAL_COUNT = len(SPECIAL_TOKENS)
PAD, START, END = range(SPECIAL_COUNT)  # ids of SPECIAL_TOKENS


def new_model(seed: int) -> Qwen2ForSequenceClassification:
    """Return the untrained model."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        initializer_range=0.06,
        tie_word_embeddings=False,
        use_cache=False,
        id2label={0: "0", 1: "1"},
        label2id={"0": 0, "1": 1},
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    config._attn_implementation = "eager"  # faster than SDPA for such short prompts on a CPU
    model = Qwen2ForSequenceClassification(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.35)
            layer.mlp.down_proj.weight.mul_(0.35)
    return model


def set_embeddings(model: Qwen2ForSequenceClassification, vectors: Array, seed: int) -> None:
    """Initialise the embeddings: principal components of the teacher's vectors, equal norms, and importance."""
    length = np.linalg.norm(vectors, axis=1)
    known = length > 1e-3
    weight = np.minimum(length, np.quantile(length[known], 0.9))[:, None]
    units = vectors / np.maximum(length, 1e-6)[:, None]
    _, _, axes = np.linalg.svd((units * weight)[known], full_matrices=False)
    content = units @ axes[:CONTENT].T
    content[~known] = np.random.default_rng(seed).normal(size=(int((~known).sum()), CONTENT)) * 0.05
    content /= np.linalg.norm(content, axis=1, keepdims=True) + 1e-6
    table = np.zeros((VOCABULARY, HIDDEN), dtype=np.float32)
    table[:, :CONTENT] = content * math.sqrt(HIDDEN) * 0.3
    table[known, IMPORTANCE] = 0.3 * np.log(length[known] / length[known].mean()).clip(-3, 3)
    table[:SPECIAL_COUNT] = 0
    for token in range(SPECIAL_COUNT):
        table[token, SPECIAL + token] = math.sqrt(HIDDEN) * 0.3
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.from_numpy(table))


@torch.no_grad()
def wire_flag(attention: Any, size: int) -> None:
    """Wire head 0: tokens after the first <|im_end|>, those of the document, get the FLAG dimension."""
    slow = size // 2 - 1  # a dimension that the rotary embedding hardly turns
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:size] = 0
    attention.q_proj.weight[size + slow] = 0  # the other query head of the group must not see these keys
    attention.q_proj.bias[slow] = 4.0
    attention.k_proj.weight[slow, SPECIAL + END] = 0.8
    attention.k_proj.weight[slow, SPECIAL + START] = 0.4
    attention.v_proj.weight[0, SPECIAL + END] = 1 / math.sqrt(HIDDEN)
    attention.o_proj.weight[:, :size] = 0
    attention.o_proj.weight[FLAG, 0] = 2.0


@torch.no_grad()
def wire_matching(attention: Any, size: int, seed: int) -> None:
    """Wire each group's first head: a document token attends to similar query tokens, or to the start if none is."""
    generator = torch.Generator().manual_seed(seed)
    half = size // 2
    rows = [i for i in range(size) if 4 <= i % half < half - 2]
    for group in range(KV_HEADS):
        query, key = 2 * group * size, group * size
        mix = torch.linalg.qr(torch.randn(CONTENT, len(rows), generator=generator))[0].T * 1.6
        for projection, start in ((attention.q_proj, query), (attention.k_proj, key)):
            projection.weight[start : start + size] = 0
            projection.weight[[start + i for i in rows], :CONTENT] = mix
        attention.q_proj.bias[query + half - 1] = 6.0
        flag = attention.k_proj.weight[key + half - 1]
        flag[FLAG], flag[SPECIAL + START], flag[SPECIAL + END] = -1.0, 0.3, 0.4
        attention.v_proj.weight[key : key + 2] = 0
        attention.v_proj.bias[key] = 1.0
        attention.v_proj.weight[key, SPECIAL + START] = -1 / math.sqrt(HIDDEN)
        attention.v_proj.weight[key + 1, IMPORTANCE] = 0.5
        attention.o_proj.weight[MATCHED, query] = 0.7
        attention.o_proj.weight[MATCHED + 1, query + 1] = 0.7


@torch.no_grad()
def wire_pooling(attention: Any, size: int) -> None:
    """Wire each group's second head: the markers collect the weighted means of the query and of the document."""
    half = size // 2
    for group in range(KV_HEADS):
        query, key, width = (2 * group + 1) * size, group * size, size - 2
        columns = list(range(group * width, (group + 1) * width))
        attention.q_proj.weight[query : query + size] = 0
        attention.q_proj.bias[query + half - 2] = 2.0
        attention.k_proj.weight[key + half - 2, IMPORTANCE] = 2.8
        attention.q_proj.weight[query + half - 1, SPECIAL + END] = 0.4
        attention.q_proj.weight[query + half - 1, SPECIAL + START] = -0.4
        attention.v_proj.weight[key + 2 : key + size] = 0
        attention.v_proj.weight[list(range(key + 2, key + size)), columns] = 0.3
        attention.o_proj.weight[:, query : query + size] = 0
        attention.o_proj.weight[columns, list(range(query + 2, query + size))] = 2.0
