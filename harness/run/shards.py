"""Candidates over Ray workers that each own one engine. Only the driver writes, and it commits query by query.

A shard is a few queries of one benchmark with their texts, about as many tokens as any other. A worker gets the next
one when it is done, so that no plan has to know how fast it is. It asks its engine what the loop of one process asks.
"""

import os
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import engines
from engines.base import Engine, EngineUnavailable, Options, Pair, require
from harness import children, files, progress
from harness.config import Cluster, EngineEntry
from harness.run import loop
from harness.run.folder import WORKERS
from harness.run.loop import Identity
from harness.run.tasks import Task
from harness.store import NotComparable, Store

FORMAT = 1  # 1: first version, 2026-11
SHARD_CHARACTERS = 2**17  # about 32,000 tokens: 0.2 s of a fast GPU, 300 times what a call of Ray costs
SHARES = 8  # shards of each worker at least, where there are as many queries: the last ones end together
WAITING = 2  # shards of a worker at a time: one that it scores, one that it finds when that is done
ATTEMPTS = 3  # workers that may die over a query before the query is given up
DEATHS = 9  # of workers one after the other without an answer in between: the engine cannot run here
PATIENCE_S = 120.0  # without any worker, that the cluster may take to start one


class EngineJob(NamedTuple):
    """An engine of the config, and how many workers of what size score with it."""

    name: str
    entry: EngineEntry
    cluster: Cluster


class Query(NamedTuple):
    query_id: str
    text: str
    positions: Sequence[int]  # of its candidates among the documents of its shard


class Shard(NamedTuple):
    """What one call of a worker scores. Texts are sent once, however many queries share a document."""

    benchmark: str
    analysis: str
    queries: Sequence[Query]
    documents: Sequence[str]
    deaths: int = 0  # of workers that held it

    @property
    def pairs(self) -> int:
        return sum(len(query.positions) for query in self.queries)

    def singles(self) -> Iterator["Shard"]:
        """Its queries one by one, so that one of them that kills workers takes no other with it."""
        for query in self.queries:
            documents = [self.documents[position] for position in query.positions]
            alone = query._replace(positions=range(len(documents)))
            yield self._replace(queries=[alone], documents=documents, deaths=self.deaths + 1)


class Worker:
    """An engine in a process of its own: what Ray makes an actor of."""

    def __init__(self, kind: str, options: Options) -> None:
        self._kind, self._options = kind, options
        self._engine: Engine | None = None
        self._warm = False

    def load(self) -> tuple[Identity, str]:
        """Load the engine: what it is, and the node and process that have it.

        Raises EngineUnavailable and BadOptions; here, as an actor that fails to start hides why.
        """
        self._engine = engine = engines.load(self._kind, self._options)
        return loop.identify(engine), f"{platform.node()}:{os.getpid()}"

    def score(self, shard: Shard) -> list[loop.ScoredQuery]:
        """An answer for each query of the shard, in its order."""
        assert self._engine is not None, "load() comes first"
        if self._engine.prepares == "candidates":
            self._engine.prepare(shard.documents, analysis=shard.analysis)
        answers = []
        for query in shard.queries:
            pairs = [Pair(query.text, shard.documents[position]) for position in query.positions]
            answers.append(loop.score_query(self._engine, pairs, warmup=not self._warm))
            self._warm = self._warm or bool(pairs)
        return answers


@dataclass
class ShardWorker:
    """A worker as the driver sees it."""

    actor: Any
    place: str = ""  # empty until its engine is loaded
    held: dict[Any, Shard] = field(default_factory=dict)  # Ray's reference to the answers -> what was asked
    totals: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0

    def count(self, answers: Sequence[loop.ScoredQuery], pairs: int) -> None:
        self.totals.update({"queries": len(answers), "pairs": pairs})
        for answer in answers:
            self.totals.update(answer.counts)
            self.busy_s += answer.service_s


class Crew:
    """The workers of one engine. A context manager: leaving it ends them."""

    def __init__(self, job: EngineJob, say: Callable[[str], None]) -> None:
        self._ray = require("ray", extra="ray")
        cluster = job.cluster
        self._actor = self._ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus)(Worker)
        self._entry, self._say = job.entry, say
        self._members: list[ShardWorker] = []
        self._gone: list[ShardWorker] = []  # dead, but what they did counts
        self._loading: dict[Any, ShardWorker] = {}
        self._alone_since = time.monotonic()
        self.identity: Identity | None = None
        self.last_words = ""
        self._deaths = 0
        self.size = cluster.workers or self._room(cluster)
        for _ in range(self.size):
            self._hire()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for member in [*self._members, *self._loading.values()]:
            self._ray.kill(member.actor)

    def start(self) -> Identity:
        """Wait for the first worker; the others join while it scores. Raises EngineUnavailable."""
        while self.identity is None:
            for _ in self.step():
                raise AssertionError("nothing was asked yet")
        return self.identity

    @property
    def free(self) -> list[ShardWorker]:
        """Members that can hold one more shard, the least busy first."""
        return sorted((each for each in self._members if len(each.held) < WAITING), key=lambda each: len(each.held))

    @property
    def busy(self) -> bool:
        return any(member.held for member in self._members)

    def give(self, member: ShardWorker, shard: Shard) -> None:
        member.held[member.actor.score.remote(shard)] = shard

    def step(self) -> Iterator[tuple[Shard, list[loop.ScoredQuery] | None]]:
        """Wait for something to happen; each shard that came back with its answers, None where its worker died."""
        references = [*self._loading, *(reference for member in self._members for reference in member.held)]
        ready, _ = self._ray.wait(references, num_returns=1, timeout=1.0)
        for reference in ready:
            if reference in self._loading:
                self._welcome(reference)
                continue
            member = next(each for each in self._members if reference in each.held)
            try:
                answers = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                yield from self._bury(member, error)
                return
            shard = member.held.pop(reference)
            member.count(answers, shard.pairs)
            self._deaths = 0
            yield shard, answers
        if self._members or not self._loading:
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > PATIENCE_S:
            raise EngineUnavailable(
                f"no worker started within {PATIENCE_S:.0f} s, the cluster has {self._ray.cluster_resources()}: "
                "ask for less under `ray` in the config, or wait for nodes; what was committed is kept"
            )

    def document(self, seconds: float) -> dict[str, Any]:
        """The content of workers.json."""
        workers = [
            {"place": each.place, **each.totals, "busy_s": each.busy_s, "died": each in self._gone}
            for each in [*self._gone, *self._members]
            if each.place
        ]
        return {"format": FORMAT, "seconds": seconds, "workers": workers}

    def _room(self, cluster: Cluster) -> int:
        """As many workers as the cluster has room for now."""
        has = self._ray.cluster_resources()
        asked = {"CPU": cluster.cpus, "GPU": cluster.gpus}
        return max(int(min(has.get(name, 0) / amount for name, amount in asked.items() if amount)), 1)

    def _hire(self) -> None:
        member = ShardWorker(self._actor.remote(self._entry.kind, self._entry.options))
        self._loading[member.actor.load.remote()] = member

    def _welcome(self, reference: Any) -> None:
        member = self._loading.pop(reference)
        try:
            identity, place = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if not self._members and not self._loading:
                raise error.cause from None
            self._say(f"crispbench: a worker could not load its engine, the others go on: {_line(error)}")
            return
        except self._ray.exceptions.RayError as error:
            if not self._members and not self._loading:
                raise EngineUnavailable(f"no worker could start: {_line(error)}") from None
            self._say(f"crispbench: a worker could not start, the others go on: {_line(error)}")
            return
        if self.identity is None:
            self.identity = identity
        unlike = differing(self.identity, identity)
        if unlike:
            raise NotComparable(
                f"worker {place} has {unlike}: results of unlike workers never mix; run it on like nodes, "
                "each kind with its own --out"
            )
        member.place = place
        self._members.append(member)

    def _bury(self, member: ShardWorker, error: Exception) -> Iterator[tuple[Shard, None]]:
        """End a worker that died, or whose engine broke in a way that no contract knows; start another."""
        self._members.remove(member)
        self._gone.append(member)
        self._ray.kill(member.actor)
        first, *others = member.held.values()
        member.held = {}
        self.last_words = _line(error)
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise EngineUnavailable(f"{DEATHS} workers died without an answer in between; the last: {self.last_words}")
        self._say(f"crispbench: worker {member.place} is gone ({self.last_words}): its queries are scored again")
        self._hire()
        yield first, None
        for shard in others:  # these had not begun
            yield shard._replace(deaths=shard.deaths - 1), None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A Ray cluster: `local` starts one on this machine, anything else is the address of one that runs.

    Raises EngineUnavailable.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every run
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # its own default, of which it would speak each time
    ray = require("ray", extra="ray")
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    paths = _import_paths(ray)
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, job_config=paths, **quiet)
        else:
            ray.init(address=address, job_config=paths, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise EngineUnavailable(
            f"Ray at {address!r} cannot be reached ({_line(error)}): expected local, auto or HOST:PORT"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _import_paths(ray: Any) -> Any:
    """Workers import what this process imports. Ray would put its working directory first on their path."""
    config = ray.job_config.JobConfig(_py_driver_sys_path=children.own_path())
    config._runtime_env_has_working_dir = lambda: True  # the one case in which Ray leaves the working directory out
    return config


def score_engine(
    job: EngineJob, tasks: Sequence[Task], folder: Path, *, fresh: bool, say: Callable[[str], None]
) -> None:
    """Score every task with the workers of one engine into its folder; the store is that of one process.

    An engine that has to see a whole corpus scores in this process: it would be built in each worker again.
    Raises EngineUnavailable before anything is written, NotComparable if workers differ or the folder holds others.
    """
    if engines.engine_class(job.entry.kind).prepares == "corpus":
        (folder / WORKERS).unlink(missing_ok=True)
        loop.score_engine(job.name, job.entry, tasks, folder, fresh=fresh)
        return
    with Crew(job, say) as crew:
        with progress.waiting(f"loading {job.name}"):
            identity = crew.start()
        with Store.open(folder, loop.describe(job.name, job.entry, identity, tasks), fresh=fresh) as store:
            loop.save_ground(tasks, store)
            started = time.perf_counter()
            try:
                for task in tasks:
                    left = loop.left_to_score(task, store)
                    pairs = sum(len(task.candidates.lists[query_id]) for query_id in left)
                    with progress.bar(f"{job.name} on {task.benchmark.name}", pairs, "pairs") as done:
                        _score_task(crew, task, left, store, done)
            finally:
                files.write_json(folder / WORKERS, crew.document(time.perf_counter() - started))


def shards(task: Task, query_ids: Iterable[str], *, most: int) -> Iterator[Shard]:
    """The queries in shards of about SHARD_CHARACTERS to score and of `most` queries, read when they are asked for.

    Characters stand for tokens: the driver has no tokenizer, and only the sizes of shards depend on it. A corpus may
    be on disk and larger than memory.
    """
    benchmark, queries, places = task.benchmark, list[Query](), dict[str, int]()
    documents, size = list[str](), 0
    for query_id in query_ids:
        positions = []
        for doc_id in task.candidates.lists[query_id]:
            if doc_id not in places:
                places[doc_id] = len(documents)
                documents.append(benchmark.documents[doc_id])
            positions.append(places[doc_id])
            size += len(documents[places[doc_id]])
        queries.append(Query(query_id, benchmark.queries[query_id], positions))
        if size >= SHARD_CHARACTERS or len(queries) == most:
            yield Shard(benchmark.name, benchmark.analysis, queries, documents)
            queries, documents, places, size = [], [], {}, 0
    if queries:
        yield Shard(benchmark.name, benchmark.analysis, queries, documents)


def _score_task(
    crew: Crew, task: Task, query_ids: Sequence[str], store: Store, on_pairs: Callable[[int], None]
) -> None:
    """Back-pressure: a shard is read and sent when a worker has room for it, and no sooner."""
    most = max(len(query_ids) // (SHARES * crew.size), 1)
    new, again = shards(task, query_ids, most=most), deque[Shard]()
    exhausted = False
    while not exhausted or again or crew.busy:
        for member in crew.free:
            shard = again.popleft() if again else next(new, None)
            if shard is None:
                exhausted = True
                break
            crew.give(member, shard)
        if not (crew.busy or again or not exhausted):
            break
        for shard, answers in crew.step():
            if answers is None and shard.deaths + 1 < ATTEMPTS:
                again.extend(shard.singles())
                continue
            if answers is None:
                answers = [
                    loop.ScoredQuery(
                        None, f"{ATTEMPTS} workers died over it; the last: {crew.last_words}", 0.0, {}, False
                    )
                ]
            for query, answer in zip(shard.queries, answers, strict=True):
                loop.record(store, task, query.query_id, answer)
            on_pairs(shard.pairs)


def differing(one: Identity, other: Identity) -> str:
    """The first thing that two workers do not share; empty if they are alike."""
    for part, left, right in zip(Identity._fields, one, other, strict=True):
        for name in sorted(left.keys() | right.keys()):
            if left.get(name) != right.get(name):
                return f"{part}.{name} = {right.get(name)!r}, the first has {left.get(name)!r}"
    return ""


def _line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or ["no message"]
    return f"{type(cause).__name__}: {lines[0][:200]}"
