"""Train the demo checkpoint: a tiny Qwen2 classifier that reranks Python functions for a docstring.

The model learns from documented functions of installed packages (see `scripts.demo_data`), never from the standard
library, on which it is tested. It imitates a blend of all-MiniLM-L6-v2 and BM25 and is pulled towards the one function
that a docstring belongs to. Token embeddings start from the teacher's vectors, and the first layers start wired so that
document tokens attend to equal or similar query tokens.

The same command resumes after an interruption; its state is kept below ``--work``:

    python -m scripts.train_demo --work build/demo --out checkpoints/demo --steps 8000

It prints nDCG@10 on functions of held-out packages during training, and on ``stdlib-code`` at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sysconfig
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Qwen2ForSequenceClassification

from engines.model_files import DEMONSTRATION, TEMPLATE
from engines.storage import replacing
from scripts import demo_data as data
from scripts.demo_data import Array, TrainingFunction
from scripts.demo_model import (
    END,
    HEADS,
    HIDDEN,
    PAD,
    START,
    VOCABULARY,
    new_model,
    set_embeddings,
    wire_flag,
    wire_matching,
    wire_pooling,
)

QUERY_TOKENS, DOCUMENT_TOKENS = 48, 112
SHARD = 8000  # candidates are mined in shards about as large as the standard library
DEV_PACKAGES = ["dulwich", "werkzeug", "traitlets", "tornado", "urllib3", "requests"]


@dataclass
class Corpus:
    """Training functions, with everything that a training step looks up."""

    functions: list[TrainingFunction]
    queries: list[list[int]]
    bodies: list[list[int]]
    query_vectors: Array
    body_vectors: Array
    lexical: data.Lexical
    hard: Array

    def teacher(self, query: Array, body: Array) -> Array:
        """Return the blended teacher scores of aligned pairs; their noise is about 1."""
        cosine = (self.query_vectors[query] * self.body_vectors[body]).sum(-1)
        return np.asarray(cosine / 0.11 + 0.1 * self.lexical.scores(query, body))


def prompt(query: list[int], body: list[int]) -> list[int]:
    """Return the token ids of one pair, as configs/templates/demo.yaml lays them out."""
    return [START, *query[:QUERY_TOKENS], END, *body[:DOCUMENT_TOKENS], END, START]


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Tokenise texts."""
    return [item.ids for item in tokenizer.encode_batch(texts, add_special_tokens=False)]


# ---------------------------------------------------------------- data


def load_corpus(args: argparse.Namespace, functions: list[TrainingFunction], tokenizer: Tokenizer) -> Corpus:
    """Tokenise, embed and mine the training functions; slow results are cached below ``--work``."""
    queries, bodies = [item.query for item in functions], [item.body for item in functions]
    vectors = data.teacher_vectors(functions, args.teacher, args.work / "emb")
    mined = args.work / f"hard-{len(functions)}.npy"
    if not mined.exists():
        np.save(mined, data.mine([item.package for item in functions], bodies, queries, SHARD, args.seed))
    return Corpus(
        functions=functions,
        queries=encode(tokenizer, queries),
        bodies=encode(tokenizer, [body[:3000] for body in bodies]),
        query_vectors=vectors[0],
        body_vectors=vectors[1],
        lexical=data.Lexical(bodies, queries),
        hard=np.load(mined),
    )


def sample_lists(corpus: Corpus, train: Array, args: argparse.Namespace, step: int) -> tuple[Array, Array]:
    """Return query indices [lists] and document indices [lists, size]: a query's own body first, then negatives."""
    epoch, start = divmod(step * args.lists, len(train) - len(train) % args.lists)
    order = np.random.default_rng([args.seed, epoch]).permutation(train)
    query = order[start : start + args.lists]
    rng = np.random.default_rng([args.seed, 1, step])
    share = min(1.0, 0.3 + step / max(1, 0.15 * args.steps)) * args.hard
    documents = rng.choice(train, (len(query), args.list_size))
    hard = corpus.hard[query[:, None], rng.integers(0, corpus.hard.shape[1], documents.shape)]
    use = (rng.random(documents.shape) < share) & (hard >= 0)
    documents = np.where(use, hard, documents)
    documents[:, 0] = query
    return query, documents


def token_vectors(corpus: Corpus, train: Array) -> Array:
    """Return one teacher vector per token: the ridge fit of a text's vector as the mean of its tokens' vectors."""
    texts = [corpus.queries[i] for i in train] + [corpus.bodies[i][:160] for i in train]
    target = np.concatenate([corpus.query_vectors[train], corpus.body_vectors[train]]).astype(np.float32)
    lengths = np.array([len(ids) for ids in texts])
    values = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    flat = np.fromiter((token for ids in texts for token in ids), dtype=np.int64)
    rows = np.repeat(np.arange(len(texts)), lengths)
    matrix = csr_matrix((values, (rows, flat)), shape=(len(texts), VOCABULARY))
    target -= target.mean(0)
    gram = (matrix.T @ matrix).toarray() + 0.02 * np.eye(VOCABULARY, dtype=np.float32)
    return np.asarray(np.linalg.solve(gram, matrix.T @ target), dtype=np.float32)


# ---------------------------------------------------------------- scoring


def pad(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded ids [rows, width] and the position of every row's last token."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return ids, torch.tensor([len(row) - 1 for row in rows])


def forward(
    model: Qwen2ForSequenceClassification, ids: torch.Tensor, last: torch.Tensor, depth: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return log-odds [rows] and, if `depth` is given, the hidden states after that many layers.

    Padding is on the right and attention is causal, so no mask is needed.
    """
    output = model.model(input_ids=ids, output_hidden_states=depth is not None)
    final = output.last_hidden_state[torch.arange(len(ids)), last].float()
    direction: torch.Tensor = model.score.weight[1] - model.score.weight[0]
    scores: torch.Tensor = (final * direction).sum(-1)
    return scores, None if depth is None else output.hidden_states[depth]


@torch.inference_mode()
def score_prompts(model: Qwen2ForSequenceClassification, prompts: list[list[int]]) -> Array:
    """Score prompts, batched by length."""
    model.eval()  # type: ignore[no-untyped-call]
    scores = np.zeros(len(prompts), dtype=np.float32)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), 96):
        chosen = order[start : start + 96]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.float32):
            scores[chosen] = forward(model, *pad([prompts[i] for i in chosen]))[0].numpy()
    model.train()
    return scores


@dataclass
class TrainingTask:
    """Queries with their candidates, on which quality is measured."""

    query: list[str]
    body: list[str]
    gold: list[int]
    rows: Array
    bm25: Array

    def ndcg(self, scores: Array) -> Array:
        """Return nDCG@10 per query of the candidates in the order of `scores`."""
        values = np.zeros(len(self.gold))
        for i, gold in enumerate(self.gold):
            ranked = self.rows[i][np.argsort(-scores[i], kind="stable")].tolist()
            if gold in ranked[:10]:
                values[i] = 1 / math.log2(ranked.index(gold) + 2)
        return values

    def chance(self) -> Array:
        """Return the expected nDCG@10 per query of the candidates in random order."""
        gain = sum(1 / math.log2(rank + 2) for rank in range(10)) / self.rows.shape[1]
        return np.array([gain * (gold in row) for gold, row in zip(self.gold, self.rows, strict=True)])

    def scores(self, model: Qwen2ForSequenceClassification, tokenizer: Tokenizer) -> Array:
        """Score every candidate with the model."""
        query, body = encode(tokenizer, self.query), encode(tokenizer, self.body)
        prompts = [prompt(query[i], body[j]) for i, row in enumerate(self.rows) for j in row]
        return score_prompts(model, prompts).reshape(self.rows.shape)


def make_task(functions: list[TrainingFunction], queries: int, seed: int) -> TrainingTask:
    """Sample queries and rank all bodies for each with BM25; the best 50 are the candidates."""
    gold = random.Random(seed).sample(range(len(functions)), min(queries, len(functions)))
    bodies, texts = [item.body for item in functions], [functions[i].query for i in gold]
    rows, bm25 = data.bm25_candidates(bodies, texts, 50)
    return TrainingTask(texts, bodies, gold, rows, bm25)


def interval(values: Array, draws: int = 2000) -> str:
    """Return the mean with its 95% bootstrap interval over queries."""
    picks = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


# ---------------------------------------------------------------- training


@dataclass
class Trained:
    """The model and the probe that the optimizer changes."""

    model: Qwen2ForSequenceClassification
    probe: torch.nn.Linear

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """All parameters, in a fixed order."""
        return [*self.model.parameters(), *self.probe.parameters()]


def micro_batches(rows: list[list[int]], parts: int) -> list[list[int]]:
    """Split row numbers into `parts` groups of similar length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    size = math.ceil(len(order) / parts)
    return [order[start : start + size] for start in range(0, len(order), size)]


def occurrence_loss(states: torch.Tensor, probe: torch.nn.Linear, ids: torch.Tensor) -> torch.Tensor:
    """Auxiliary loss: a probe predicts for every document token whether it occurs in the query."""
    inside = (ids == END).cumsum(1)
    query, body = (inside == 0) & (ids > END), (inside == 1) & (ids > END)
    same = ((ids[:, :, None] == ids[:, None, :]) & query[:, None, :]).any(-1)
    logits = probe(states.float()).squeeze(-1)[body]
    return functional.binary_cross_entropy_with_logits(logits, same[body].float())


def target_distribution(corpus: Corpus, query: Array, documents: Array, args: argparse.Namespace) -> torch.Tensor:
    """Return the target of each list's softmax: the teacher's, mixed with all weight on the query's own body."""
    repeated = np.repeat(query, documents.shape[1])
    teacher = torch.from_numpy(corpus.teacher(repeated, documents.ravel())).float().view(documents.shape)
    target: torch.Tensor = (1 - args.gold) * torch.softmax(args.sharpness * teacher, -1)
    target[:, 0] += args.gold
    return target


def batch_gradients(
    trained: Trained, pool: Executor, corpus: Corpus, train: Array, args: argparse.Namespace, step: int
) -> tuple[float, float, float]:
    """Fill the gradients of one step; return loss, share of lists in which the own body wins, and auxiliary loss.

    Each thread runs whole groups, which is quicker on shared cores than splitting every operation among threads.
    """
    query, documents = sample_lists(corpus, train, args, step)
    pairs = [(q, d) for q, row in zip(query, documents, strict=True) for d in row]
    rows = [prompt(corpus.queries[q], corpus.bodies[d]) for q, d in pairs]
    groups = micro_batches(rows, args.parts)

    def ahead(group: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, last = pad([rows[i] for i in group])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            values, states = forward(trained.model, ids, last, depth=3)
        assert states is not None
        return values, occurrence_loss(states, trained.probe, ids)

    def back(group: list[int], values: torch.Tensor, extra: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flow = [slope[group], torch.tensor(weight / len(groups))]
        return torch.autograd.grad([values, extra], trained.parameters, flow, allow_unused=True)

    results = list(pool.map(ahead, groups))
    scores = torch.zeros(len(rows))
    for group, (values, _) in zip(groups, results, strict=True):
        scores[group] = values.detach()
    scores = scores.view(documents.shape).requires_grad_()
    target = target_distribution(corpus, query, documents, args)
    loss = -(target * torch.log_softmax(scores, -1)).sum(-1).mean()
    slope = torch.autograd.grad(loss, scores)[0].flatten()
    weight = args.auxiliary * max(0.05, 1 - step / (0.5 * args.steps))
    parts = list(pool.map(back, groups, *zip(*results, strict=True)))
    for parameter, gradients in zip(trained.parameters, zip(*parts, strict=True), strict=True):
        known = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = torch.stack(known).sum(0) if known else None
    right = float((scores.argmax(-1) == 0).float().mean())
    return float(loss.detach()), right, float(sum(extra.detach() for _, extra in results)) / len(groups)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Return the learning rate: linear warm-up, then linear decay to zero."""
    return float(args.rate * min((step + 1) / args.warmup, max(0.0, 1 - step / args.steps)))


def export(model: Qwen2ForSequenceClassification, tokenizer: Tokenizer, out: Path) -> None:
    """Write the checkpoint: fp16 weights, configuration and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    copy = Qwen2ForSequenceClassification(model.config)  # type: ignore[no-untyped-call]
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(out)  # type: ignore[no-untyped-call]
    config = json.loads((out / "config.json").read_text())
    config |= {"rope_theta": 1e8, "torch_dtype": "float16"}  # keys that transformers 4 reads
    config[TEMPLATE] = "demo"
    config[DEMONSTRATION] = True  # reports say so of every engine that scores with it
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1024,
        "pad_token": data.SPECIAL_TOKENS[PAD],
        "eos_token": data.SPECIAL_TOKENS[END],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state so that an interruption leaves the old one whole."""
    with replacing(path) as draft:
        torch.save(state, draft)


def start_model(corpus: Corpus, train: Array, args: argparse.Namespace) -> Qwen2ForSequenceClassification:
    """Return the initialised model."""
    model = new_model(args.seed)
    size = HIDDEN // HEADS
    set_embeddings(model, token_vectors(corpus, train), args.seed)
    if args.wire:
        wire_flag(model.model.layers[0].self_attn, size)
        wire_matching(model.model.layers[1].self_attn, size, args.seed)
        wire_pooling(model.model.layers[1].self_attn, size)
        wire_matching(model.model.layers[2].self_attn, size, args.seed + 1)
    return model


def train_model(
    corpus: Corpus, train: Array, task: TrainingTask, tokenizer: Tokenizer, args: argparse.Namespace
) -> Qwen2ForSequenceClassification:
    """Train the model, or resume its training, and return it."""
    path = args.work / f"{args.name}.pt"
    state = torch.load(path, weights_only=False) if path.exists() else None
    trained = Trained(new_model(args.seed) if state else start_model(corpus, train, args), torch.nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(trained.parameters, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    if state:
        trained.model.load_state_dict(state["model"])
        trained.probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
    clock, rows = time.monotonic(), []
    with ThreadPoolExecutor(args.threads) as pool:
        for step in range(state["step"] if state else 0, args.stop or args.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)
            rows.append(batch_gradients(trained, pool, corpus, train, args, step))
            torch.nn.utils.clip_grad_norm_(trained.parameters, 1.0)
            optimizer.step()
            if (step + 1) % args.log == 0:
                loss, right, extra = np.mean(rows[-args.log :], axis=0)
                speed = args.log / (time.monotonic() - clock)
                print(f"{step + 1:6d} loss {loss:.3f} right {right:.3f} aux {extra:.3f} {speed:.2f}/s", flush=True)
                clock = time.monotonic()
            if (step + 1) % args.check == 0 or step + 1 == args.steps:
                state = {"model": trained.model.state_dict(), "probe": trained.probe.state_dict(), "step": step + 1}
                save_state(path, state | {"optimizer": optimizer.state_dict()})
                export(trained.model, tokenizer, args.out)
                value = interval(task.ndcg(task.scores(trained.model, tokenizer)))
                print(f"{step + 1:6d} held-out nDCG@10 {value}", flush=True)
                clock = time.monotonic()
    return trained.model


def report(out: Path, task: TrainingTask, tokenizer: Tokenizer, teacher: Path | None, name: str) -> None:
    """Print nDCG@10 of the exported checkpoint and of its baselines on one task."""
    model = Qwen2ForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    rows = {"random order (expected)": task.chance(), "BM25": task.ndcg(task.bm25)}
    if teacher:
        used, positions = np.unique(task.rows, return_inverse=True)
        body = data.embed([task.body[i] for i in used], teacher)[positions.reshape(task.rows.shape)]
        rows["all-MiniLM-L6-v2"] = task.ndcg(np.einsum("qd,qkd->qk", data.embed(task.query, teacher), body))
    rows["demo"] = task.ndcg(task.scores(model, tokenizer))
    for label, values in rows.items():
        print(f"{name:12s} {label:26s} nDCG@10 {interval(values)}", flush=True)
    print(f"{name:12s} demo - BM25 {interval(rows['demo'] - rows['BM25'])}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--packages", type=Path, nargs="*", default=[Path(sysconfig.get_paths()["purelib"])],
        help="site-packages folders to learn from (default: this environment's)")  # fmt: skip
    add("--per-package", type=int, default=3000, help="largest number of functions per package")
    add(
        "--functions",
        type=int,
        default=56000,
        help="largest number of functions in all; the tokenizer sees more",
    )
    add("--teacher", type=Path, default=data.default_teacher(), help="sentence-transformers folder of the teacher")
    add("--work", type=Path, required=True, help="folder for caches and the training state")
    add("--out", type=Path, required=True, help="folder of the checkpoint")
    add("--name", default="state", help="name of the training state")
    add("--steps", type=int, default=8000, help="steps of the whole schedule")
    add("--stop", type=int, default=0, help="stop early at this step; 0: at the end")
    add("--lists", type=int, default=8, help="queries per step")
    add("--list-size", type=int, default=8, help="documents per query")
    add("--parts", type=int, default=4, help="groups of similar length into which a step is split")
    add("--rate", type=float, default=1e-3, help="highest learning rate")
    add("--warmup", type=int, default=200, help="steps up to the highest learning rate")
    add("--hard", type=float, default=0.75, help="final share of mined negatives")
    add("--gold", type=float, default=0.5, help="share of the target that is on a query's own body")
    add("--sharpness", type=float, default=1.5, help="factor of the teacher's scores")
    add("--auxiliary", type=float, default=0.5, help="initial weight of the occurrence loss")
    add("--wire", action=argparse.BooleanOptionalAction, default=True, help="wire the first layers")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 matrix products")
    add("--log", type=int, default=50, help="steps between two lines")
    add("--check", type=int, default=400, help="steps between two measurements and saved states")
    add("--threads", type=int, default=2, help="CPU threads")
    add("--seed", type=int, default=0, help="seed of all random numbers")
    return parser.parse_args()


def main() -> None:
    """Prepare the data, train, export and measure."""
    args = parse_arguments()
    torch.set_num_threads(1)  # threads share a step by whole groups
    args.work.mkdir(parents=True, exist_ok=True)
    cache = args.work / "functions.jsonl"
    if not cache.exists():
        data.save_functions(data.load_functions(args.packages, args.per_package, args.seed), cache)
    functions = data.read_functions(cache)
    vocabulary = args.work / f"tok{VOCABULARY}.json"
    if not vocabulary.exists():
        texts = (text for item in functions for text in (item.query, item.body[:1500]))
        data.build_tokenizer(texts, VOCABULARY).save(str(vocabulary))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.encode_special_tokens = True
    functions = functions[: args.functions]
    corpus = load_corpus(args, functions, tokenizer)
    held_out = [item for item in functions if item.package in DEV_PACKAGES]
    train = np.array([i for i, item in enumerate(functions) if item.package not in DEV_PACKAGES])
    print(f"{len(train)} training functions, {len(held_out)} held out", flush=True)
    task = make_task(held_out, 150, args.seed)
    model = train_model(corpus, train, task, tokenizer, args)
    export(model, tokenizer, args.out)
    report(args.out, task, tokenizer, args.teacher, "held-out")
    report(args.out, make_task(data.standard_library(), 200, args.seed), tokenizer, args.teacher, "stdlib-code")


if __name__ == "__main__":
    main()
