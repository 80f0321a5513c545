"""Causal rerankers and their classifier conversions in PyTorch: log-odds from the rows of two labels."""

from collections.abc import Collection, Sequence
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

from pydantic import PositiveInt, model_validator

from engines.base import (
    Ceiling,
    Counts,
    Description,
    Engine,
    Options,
    PromptOptions,
    ScoreKind,
    ScoringFailed,
    by_query,
    require,
    require_installed,
)
from engines.model_files import locate, require_model, unset_template
from engines.prompts.encoder import Prompt, PromptEncoder
from engines.prompts.template import load_template
from engines.storage import shadowed
from engines.torch import faults, work
from engines.torch.device_names import DeviceName, require_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engines.torch.checkpoint import Checkpoint


class TorchOptions(Options):
    model: str  # a folder, or a name on the hub
    revision: str | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8", "fp8-sim"] = "auto"
    template: str = "mxbai-v2-seq"
    instruction: str = ""
    device: DeviceName = "auto"
    max_tokens: PositiveInt | None = None  # limit of the whole prompt, cut to fit; None: the template's
    token_budget: PositiveInt | None = None  # tokens of one packed forward; None: 2048 on a CPU, 16384 elsewhere
    allow_slow: bool = False  # fp16 on a CPU
    kernels: Literal["auto", "compiled", "fused", "packed"] = "auto"  # auto: compiled on a GPU, otherwise packed
    cuda_graphs: bool = False  # small packs are replayed instead of launched
    fast_accumulation: bool = False  # fp8 products keep about 14 bits of a sum; fp8-sim always keeps all
    cache_tokens: bool = True  # tokenise every document once, before scoring; False: with every query
    weights: Literal["checkpoint", "random"] = "checkpoint"  # random: only the model's shape, to measure its speed
    tokenizer: str | None = None  # for random weights: a folder or a name on the hub; None: the model's

    @model_validator(mode="after")
    def _template_takes_the_instruction(self) -> Self:
        load_template(self.template, self.config_folder).instruction_line(self.instruction)
        return self

    @model_validator(mode="after")
    def _tokenizer_is_the_checkpoints(self) -> Self:
        if self.tokenizer is not None and self.weights != "random":
            raise ValueError("option tokenizer is for weights: random; a checkpoint has its own tokenizer")
        return self

    @model_validator(mode="after")
    def _fast_accumulation_is_of_fp8(self) -> Self:
        if self.fast_accumulation and self.precision != "fp8":
            raise ValueError(f"option fast_accumulation is for precision fp8, not for {self.precision}")
        return self

    @property
    def speed_only(self) -> bool:
        return self.weights == "random"

    @property
    def prompt(self) -> PromptOptions:
        return PromptOptions(self.template, self.instruction, exact=True)


class Launched(NamedTuple):
    """One query whose scores may not be computed yet."""

    query: str
    prompt: Prompt
    scores: "Tensor"  # [documents], on the device
    computed: int  # tokens that went through the model


class TorchEngine(Engine):
    options_type: ClassVar[type[Options]] = TorchOptions
    options: TorchOptions
    prepares = "candidates"

    @classmethod
    def preflight(cls, options: TorchOptions) -> Sequence[str]:
        require_installed("torch", "transformers", extra="torch")
        require_device(options.device)
        if options.precision in ("fp16", "fp8"):  # the two that not every device has
            from engines.torch.checkpoint import pick_precision
            from engines.torch.device import pick_device

            pick_precision(options.precision, pick_device(options.device), allow_slow=options.allow_slow)
        folder = options.config_folder
        notes = require_model(options.model, folder, revision=options.revision, extra="torch")
        if options.tokenizer is not None:
            notes += require_model(
                options.tokenizer, folder, what="tokenizer", files=("tokenizer.json",), extra="torch"
            )
        if "template" not in options.model_fields_set and not options.speed_only:
            return (*notes, *unset_template(options.model, folder, options.template))
        return (*notes, *shadowed(options.template, folder))

    def __init__(self, options: TorchOptions) -> None:
        super().__init__(options)
        template = load_template(options.template, options.config_folder)
        require("torch", extra="torch")
        require("transformers", extra="torch")
        from engines.torch import ceiling, checkpoint, memory, quantized, random_weights
        from engines.torch import device as devices
        from engines.torch.forward import launcher, packed

        device = devices.pick_device(options.device)
        precision = checkpoint.pick_precision(options.precision, device, allow_slow=options.allow_slow)
        dtype = checkpoint.DTYPES[precision]
        model = locate(options.model, options.config_folder)
        if options.weights == "random":
            tokenizer = locate(options.tokenizer, options.config_folder) if options.tokenizer else None
            shape_of = (model, options.revision, tokenizer)
            loaded = random_weights.build(*shape_of, dtype=dtype, device=device)
        else:
            loaded = checkpoint.load(model, options.revision, template.labels)
        self._encoder = PromptEncoder(
            template,
            loaded.tokenizer,
            max_tokens=options.max_tokens,
            positions=loaded.max_tokens,
            instruction=options.instruction,
        )
        self._head = self._score_head(loaded).to(device)
        weight_bytes = 1 if precision in quantized.ARITHMETIC else dtype.itemsize
        sizes = {"weight_bytes": weight_bytes, "activation_bytes": dtype.itemsize}
        self._shape = ceiling.shape_of(loaded.backbone, loaded.backbone.config, **sizes)
        self._ceiling = partial(ceiling.measure, precision=precision, dtype=dtype, device=device)
        quantized.convert(loaded.backbone, precision, loaded.scales)
        self._backbone = checkpoint.place(loaded.backbone, device, dtype)
        self._budget = options.token_budget or (2048 if device.type == "cpu" else 16384)
        settings = launcher.ForwardSettings(options.kernels, options.cuda_graphs, options.fast_accumulation)
        self._launcher = launcher.choose(self._backbone, self._head, settings)
        self._again = partial(packed.score, self._backbone, self._head)
        self._counts = Counts()
        self._description = self._describe_loaded(loaded, precision, device)
        memory.give_back_holes()
        if device.type == "cpu":
            memory.keep_what_is_freed()

    def prepare(self, documents: Collection[str], *, analysis: str) -> None:
        if self.options.cache_tokens:
            self._encoder.prepare(documents)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        from engines.torch.forward import stream

        with faults.lost_device_reported():
            launched = [self._launch(text, documents) for text, documents in by_query(pairs)]
            fetched = stream.fetch([query.scores for query in launched])
        for query, scores in zip(launched, fetched, strict=True):
            self._check(query, scores)
        return [score for scores in fetched for score in scores]

    def describe(self) -> Description:
        return self._description

    def counts(self) -> Counts:
        return self._counts

    def ceiling(self) -> Ceiling | None:
        return None if self._shape is None else self._ceiling(self._shape)

    def close(self) -> None:
        from engines.torch import memory

        self._backbone.to("meta")  # frees the weights even if someone still holds the engine
        self._launcher = self._launcher._replace(score=self._again)  # holds no weights
        self._encoder.close()
        memory.give_back_holes()

    def _describe_loaded(self, loaded: "Checkpoint", precision: str, device: "torch.device") -> Description:
        import torch
        import transformers

        from engines.torch import checkpoint, quantized, random_weights
        from engines.torch import device as devices

        template = self._encoder.template
        return Description(
            model=self.options.model,
            revision=loaded.revision,
            precision=precision,
            template=template.name,
            template_sha256=template.sha256,
            max_tokens=self._encoder.max_tokens,
            device=devices.described(device),
            random_seed=random_weights.SEED if self.options.weights == "random" else None,
            weights_mb=round(checkpoint.size_bytes(self._backbone) / 1e6, 1),
            score_kind=ScoreKind.LOG_ODDS,
            demonstration=loaded.demonstration,
            details={
                "architecture": loaded.architecture,
                "tokenizer_sha256": self._encoder.tokenizer_sha256,
                "document_tokens": "prepared" if self.options.cache_tokens else "with every query",
                "token_budget": str(self._budget),
                "torch": str(torch.__version__),
                "transformers": str(transformers.__version__),
                **self._launcher.how,
                **quantized.describe(self._backbone),
            },
        )

    def _score_head(self, loaded: "Checkpoint") -> "Tensor":
        if loaded.head is not None:
            return loaded.head.detach()
        assert loaded.embedding is not None
        positive, negative = (loaded.embedding[row].detach().float() for row in self._encoder.label_ids())
        return positive - negative

    def _launch(self, query: str, documents: Sequence[str]) -> "Launched":
        """On a GPU this returns before the scores are computed, so that the next query is tokenised meanwhile."""
        prompt = self._encoder.encode(query, documents)
        fitted = faults.fit(partial(self._launcher.score, prompt), self._budget)
        self._budget = fitted.budget
        self._counts += Counts(budget_halvings=fitted.halvings)
        return Launched(query, prompt, *fitted.result)

    def _check(self, launched: "Launched", scores: Sequence[float]) -> None:
        """Raise ScoringFailed for a score that is not finite; otherwise count the work."""
        query, prompt, _, computed = launched
        if not all(map(isfinite, scores)):
            bad = next(score for score in scores if not isfinite(score))
            raise ScoringFailed(f"the model gave {bad} for query {query[:60]!r}: {self._overflow(prompt)}")
        lengths = len(prompt.prefix), [*map(len, prompt.tails)]
        self._counts += work.packed(self._shape, *lengths, computed, ends_only=self._launcher.ends_only)
        self._counts += prompt.counts

    def _overflow(self, prompt: Prompt) -> str:
        """The first layer without a finite output, and what to do about it."""
        from engines.torch.faults import first_overflow

        layer = first_overflow(self._backbone, partial(self._again, prompt, budget=self._budget)) or "the score head"
        precision = self._description.precision
        advice = "use bf16 or fp32" if precision == "fp16" else "look for NaN among the checkpoint's weights"
        return f"in {precision}, {layer} is the first to overflow or to give NaN; {advice}"
