"""What the settings of a checkpoint may name, checked before a library reads them.

sentence-transformers and transformers import what config.json and its neighbours name: an activation, a module, an
attention kernel. Code that comes with a checkpoint never runs here. So every such name stands on a list of this module,
every file is a regular one of bounded size, and weights come from safetensors alone.
"""

import json
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from engines.base import EngineUnavailable, first_line, require
from engines.model_files import locate

MAX_BYTES = 16 * 2**20  # of a JSON file; indexes of weights, the largest ones, have at most some megabytes
MAX_TOKENIZER_BYTES = 256 * 2**20  # of tokenizer.json, which has some ten megabytes for a vocabulary of 250,000
MAX_FILES = 10_000  # in a model's folder
MAX_MODULES = 100  # that one file names
MAX_ROUTERS = 4  # inside one another
MAX_PATTERN = 10_000  # characters of a pattern in tokenizer.json

NEXT_STEP = "correct or remove the entry (SECURITY.md)"
SAFE_WEIGHTS = "model.safetensors"
SAFE_NAME = re.compile(r"[\w.-]+\.safetensors")
ACTIVATIONS = re.compile(
    r"torch\.nn\.(modules\.(activation|linear)\.)?"
    r"(Identity|Sigmoid|LogSigmoid|Tanh|ReLU|ReLU6|LeakyReLU|PReLU|ELU|CELU|SELU|GELU|SiLU|Mish|Softmax|LogSoftmax"
    r"|Softplus|Softsign|Hardtanh|Hardsigmoid|Hardswish|Tanhshrink)"
)
# Modules of sentence-transformers and the file of each. Versions before 5.4 save `models` and the class alone.
MODULES = {
    "Asym": "router",
    "BoW": "bow",
    "CLIPModel": "clip_model",
    "CNN": "cnn",
    "Dense": "dense",
    "Dropout": "dropout",
    "LSTM": "lstm",
    "LayerNorm": "layer_norm",
    "LogitScore": "logit_score",
    "Normalize": "normalize",
    "Pooling": "pooling",
    "Router": "router",
    "StaticEmbedding": "static_embedding",
    "Transformer": "transformer",
    "WeightedLayerPooling": "weighted_layer_pooling",
    "WordEmbeddings": "word_embeddings",
    "WordWeights": "word_weights",
}
MODULE_PACKAGES = ("models", "base.modules", "sentence_transformer.modules", "cross_encoder.modules")
WITH_WEIGHTS = ("CNN", "Dense", "LSTM", "LayerNorm", "StaticEmbedding", "WeightedLayerPooling", "WordEmbeddings")
TRANSFORMERS = ("CLIPModel", "Transformer")
WORD_TOKENIZERS = re.compile(
    r"sentence_transformers\.(models|sentence_transformer\.modules)\.tokenizer"
    r"(\.(whitespace|phrase|WhitespaceTokenizer|PhraseTokenizer))?\.(WhitespaceTokenizer|PhraseTokenizer)"
)
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
FORWARDS = re.compile(r"forward|get_(text|image|audio|video)_features")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
DTYPES = re.compile(r"(torch\.)?(float16|bfloat16|float32|float64)|auto")
# Classes of transformers that read texts and images, by the key that names one.
PROCESSORS = {
    "tokenizer_class": re.compile(r"\w*(Tokenizer|TokenizerFast|TokenizersBackend|SentencePieceBackend|PythonBackend)"),
    "processor_class": re.compile(r"\w+Processor"),
    "feature_extractor_type": re.compile(r"\w+(FeatureExtractor|ImageProcessor)"),
    "image_processor_type": re.compile(r"\w+ImageProcessor(Fast|Pil)?"),
    "video_processor_type": re.compile(r"\w+VideoProcessor"),
}
PROCESSOR_FILES = (
    *("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    *("feature_extractor_config.json", "video_preprocessor_config.json"),
)
PRE_TOKENIZERS = (
    *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation"),
    *("Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
)
SENTENCE_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What these files may pass on to transformers, by the keys of older and newer versions.
ARGUMENTS: Mapping[tuple[str, str], set[str]] = {
    ("model_args", "model_kwargs"): {
        *("add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "trust_remote_code", "use_cache"),
    },
    ("tokenizer_args", "processor_kwargs"): {
        *("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "do_lower_case", "fix_mistral_regex"),
        *("legacy", "max_length", "model_max_length", "pad_token", "padding", "padding_side", "strip_accents"),
        *("truncation", "truncation_side", "trust_remote_code", "use_fast"),
    },
    ("config_args", "config_kwargs"): {
        *("attn_implementation", "is_causal", "is_decoder", "num_labels", "output_hidden_states", "trust_remote_code"),
        *("unpad_inputs", "use_bidirectional_attention", "use_cache", "use_memory_efficient_attention"),
    },
}


class ModelFiles:
    """The files of one model, in a folder or on the hub."""

    def __init__(self, model: str, folder: Path | None, revision: str | None) -> None:
        self.model = model  # as the config has it
        self._folder = folder  # None: on the hub
        self._revision = revision
        self._cached_only = False  # the hub did not answer once: every further question would take as long

    def find(self, name: str) -> Path | None:
        """A file of the model; None if there is none. Raises EngineUnavailable if the hub does not answer."""
        if self._folder is not None:
            path = self._folder / name
            return path if path.exists() else None
        hub, errors = (require(name, extra="remote") for name in ("huggingface_hub", "huggingface_hub.errors"))
        at = {"revision": self._revision, "local_files_only": self._cached_only}
        try:
            return Path(hub.hf_hub_download(self.model, name, **at))
        except errors.LocalEntryNotFoundError:
            self._cached_only = True
            return None
        except (errors.EntryNotFoundError, errors.HFValidationError):
            return None
        except Exception as error:  # the hub's client raises errors of several packages
            raise EngineUnavailable(f"model {self.model!r} cannot be read: {first_line(error)}") from None

    def read(self, name: str, limit: int = MAX_BYTES) -> Any:
        """The content of a JSON file; None if there is no such file. Raises EngineUnavailable."""
        path = self.find(name)
        if path is None:
            return None
        try:
            if path.stat().st_size > limit:
                raise ValueError(f"it has {path.stat().st_size:,} bytes, expected at most {limit:,}")
            return json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.refused(name, first_line(error)) from None

    def settings(self, name: str) -> "Settings":
        """The object in a JSON file; empty if there is no such file. Raises EngineUnavailable."""
        document = self.read(name)
        if document is not None and not isinstance(document, dict):
            raise self.refused(name, "expected a JSON object")
        return Settings(self, name, document or {})

    def refused(self, name: str, reason: str) -> EngineUnavailable:
        return EngineUnavailable(f"model {self.model!r} is refused for its {name}: {reason}")


class Settings(NamedTuple):
    """An object in a JSON file of a model."""

    files: ModelFiles
    name: str  # of the file
    values: Mapping[str, Any]

    def only(self, key: str, allowed: re.Pattern[str] | Collection[str]) -> None:
        """Raise EngineUnavailable if the key is set to a value, or to a list with a value, that is not allowed."""
        value = self.values.get(key)
        for named in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(named, str) or not _is_allowed(named, allowed):
                raise self.refused(
                    f"{key} = {named!r:.100} is not among the names that a checkpoint may give; {NEXT_STEP}"
                )

    def within(self, key: str) -> "Settings":
        """The object below a key; empty if it has none."""
        value = self.values.get(key)
        return self._replace(values=value if isinstance(value, dict) else {})

    def everywhere(self) -> Iterator["Settings"]:
        """This object and all objects below it."""
        waiting: list[Any] = [self.values]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                yield self._replace(values=value)
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value

    def refused(self, reason: str) -> EngineUnavailable:
        return self.files.refused(self.name, reason)


def check_transformer(model: str, revision: str | None = None) -> None:
    """Check what transformers and tokenizers would read. Raises EngineUnavailable and BadOptions."""
    _check_transformer(_opened(model, revision), "")


def check_tokenizer(model: str, revision: str | None = None) -> None:
    """Check what tokenizers would read. Raises EngineUnavailable and BadOptions."""
    _check_tokenizer(_opened(model, revision), "")


def check_sentence_transformer(model: str, revision: str | None = None) -> None:
    """Check what sentence-transformers would read. Raises EngineUnavailable and BadOptions."""
    files = _opened(model, revision)
    _check_backbone(files, "")
    files.settings("config_sentence_transformers.json").only("activation_fn", ACTIVATIONS)
    entries = files.read("modules.json") or []
    if not isinstance(entries, list) or len(entries) > MAX_MODULES or not all(isinstance(e, dict) for e in entries):
        raise files.refused("modules.json", f"expected a list of at most {MAX_MODULES} objects")
    for entry in entries:
        settings = Settings(files, "modules.json", entry)
        _check_module(settings, settings.values.get("type"), settings.values.get("path", ""))


def _opened(model: str, revision: str | None) -> ModelFiles:
    folder = Path(locate(model))
    if not folder.is_dir():
        return ModelFiles(model, None, revision)
    files = ModelFiles(model, folder, revision)
    for number, path in enumerate(folder.rglob("*"), 1):
        if number > MAX_FILES:
            raise EngineUnavailable(f"model {model!r} has over {MAX_FILES:,} files: expected a checkpoint's folder")
        with suppress(FileNotFoundError):  # a link that leads nowhere
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe or a device may never end
                raise files.refused(path.name, "expected a regular file")
    return files


def _check_module(named_by: Settings, kind: Any, path: Any, *, inside: str = "") -> None:
    """Check a module of sentence-transformers, and those that a router names."""
    files, name = named_by.files, _module_name(kind)
    if name is None:
        raise named_by.refused(
            f"type = {kind!r:.100} is no module of sentence-transformers that a checkpoint may name; "
            "code that comes with a checkpoint never runs"
        )
    if not isinstance(path, str) or {"..", "~"} & set(PurePosixPath(path).parts) or path[:1] == "/" or "\\" in path:
        raise named_by.refused(f"path = {path!r:.100} leaves the model's folder")
    folder = str(PurePosixPath(inside, path))
    settings = files.settings(_in(folder, "config.json"))
    if name in TRANSFORMERS:
        _check_backbone(files, folder)
    if name in WITH_WEIGHTS and files.find(_in(folder, SAFE_WEIGHTS)) is None:
        raise files.refused(
            _in(folder, SAFE_WEIGHTS), f"module {name} has no such file, and pickled weights are not read"
        )
    if name == "StaticEmbedding":
        _check_tokenizer(files, folder)
    if name == "WordEmbeddings":
        files.settings(_in(folder, "wordembedding_config.json")).only("tokenizer_class", WORD_TOKENIZERS)
    if name == "Dense":
        settings.only("activation_function", ACTIVATIONS)
    if name == "Pooling":
        settings.only("pooling_mode", POOLINGS)
    if name in ("Router", "Asym"):
        _check_router(files, folder)


def _check_router(files: ModelFiles, folder: str) -> None:
    settings = files.settings(_in(folder, "router_config.json"))
    if not settings.values:
        settings = files.settings(_in(folder, "config.json"))  # as Asym saved it
    kinds = settings.within("types").values
    if len(kinds) > MAX_MODULES or folder.count("/") >= MAX_ROUTERS:
        raise settings.refused(f"expected at most {MAX_MODULES} modules, in at most {MAX_ROUTERS} routers")
    for path, kind in kinds.items():
        _check_module(settings, kind, path, inside=folder)


def _module_name(kind: Any) -> str | None:
    """The class of a module's type, which is a dotted path with or without its file; None for any other name."""
    if not isinstance(kind, str):
        return None
    name = kind.rpartition(".")[2]
    if name not in MODULES:
        return None
    paths = {f"sentence_transformers.{package}" for package in MODULE_PACKAGES}
    files = {f"{path}.{file}" for path in paths for file in (name, MODULES[name])}
    return name if kind.rpartition(".")[0] in paths | files else None


def _check_backbone(files: ModelFiles, folder: str) -> None:
    """A model of transformers as a module of sentence-transformers, which passes settings on to it."""
    _check_transformer(files, folder)
    if "quantization_config" in files.settings(_in(folder, "config.json")).values:
        raise files.refused(_in(folder, "config.json"), "quantised weights: expected full weights")
    for name in SENTENCE_FILES:
        settings = files.settings(_in(folder, name))
        for key in ("tokenizer_name_or_path", "processor_name"):
            settings.only(key, ())
        for forward in settings.within("modality_config").everywhere():
            forward.only("method", FORWARDS)
        for group, allowed in ARGUMENTS.items():
            for key in group:
                arguments = settings.within(key)
                for unknown in sorted(arguments.values.keys() - allowed):
                    raise settings.refused(f"{key} sets {unknown!r:.100}, which a checkpoint may not set")
                _check_loading(arguments)


def _check_transformer(files: ModelFiles, folder: str) -> None:
    config = files.settings(_in(folder, "config.json"))
    for settings in config.everywhere():
        _check_loading(settings)
        settings.only("transformers_weights", SAFE_NAME)
        settings.only("sbert_ce_default_activation_function", ACTIVATIONS)
        settings.within("sentence_transformers").only("activation_fn", ACTIVATIONS)
    for name in PROCESSOR_FILES:
        for settings in files.settings(_in(folder, name)).everywhere():
            for key, allowed in PROCESSORS.items():
                settings.only(key, allowed)
            settings.only("mecab_option", ())
            settings.only("word_tokenizer_type", ("basic", "mecab", "sudachi"))
    if files.find(_in(folder, "adapter_config.json")) is not None:
        raise files.refused(
            _in(folder, "adapter_config.json"), "expected a whole model: merge the adapter into its base"
        )
    shards = files.settings(_in(folder, f"{SAFE_WEIGHTS}.index.json"))
    for shard in set(map(str, shards.within("weight_map").values.values())):
        if not SAFE_NAME.fullmatch(shard):
            raise shards.refused(f"its weights are in {shard!r:.100}, expected a file .safetensors beside it")
    _check_tokenizer(files, folder)


def _check_loading(settings: Settings) -> None:
    """Names that decide how weights are loaded and computed."""
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        settings.only(key, ATTENTIONS)
    for key in ("dtype", "torch_dtype"):
        settings.only(key, DTYPES)


def _check_tokenizer(files: ModelFiles, folder: str) -> None:
    name = _in(folder, "tokenizer.json")
    document = files.read(name, MAX_TOKENIZER_BYTES)
    if document is None:
        return
    if not isinstance(document, dict):
        raise files.refused(name, "expected a JSON object")
    parts = Settings(files, name, {key: document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")})
    for part in parts.within("pre_tokenizer").everywhere():
        part.only("type", PRE_TOKENIZERS)
    for part in parts.everywhere():
        pattern = part.values.get("Regex")
        if pattern is not None and (not isinstance(pattern, str) or _repeats_a_group(pattern)):
            raise parts.refused(f"the pattern {pattern!r:.100} repeats a group, which can take forever on some texts")


def _repeats_a_group(pattern: str) -> bool:
    """Whether an unbounded quantifier follows a group, as in `(a+)+`: the time may double with every character."""
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|\[[^\]]*\]|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
    return len(pattern) > MAX_PATTERN or re.search(r"\)(?:[*+]|\{\d*,\d*\}|\{\d{3,}\})", plain) is not None


def _is_allowed(name: str, allowed: re.Pattern[str] | Collection[str]) -> bool:
    return allowed.fullmatch(name) is not None if isinstance(allowed, re.Pattern) else name in allowed


def _in(folder: str, name: str) -> str:
    return str(PurePosixPath(folder, name))
