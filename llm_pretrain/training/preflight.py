"""What is known of a run before it begins: its model, what is wrong with that, and the four lines
that it begins with. Paddle is not imported, so that `check` can ask too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llm_pretrain.checkpoint.published_weights import table_rows
from llm_pretrain.checkpoint.weight_files import has_weights
from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    check_layout,
    describe_degrees,
    layout_notices,
    plan_batches,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import Sources
from llm_pretrain.data.preprocess.tokenizers import (
    class_for_paddlenlp,
    find_tokenizer,
    load_tokenizer,
)
from llm_pretrain.data.sources import epochs_text
from llm_pretrain.models.families import load_model_config, read_model_config
from llm_pretrain.models.maximal_update import MaximalUpdate

_LONGEST_BLEND = 60


def tokenizer_directory(run: RunConfig) -> Path:
    """Where the run's tokenizer would be."""
    return Path(run.model.tokenizer_name_or_path or run.model.model_name_or_path)


def tokenizer_notices(run: RunConfig) -> list[str]:
    """What a user should know who expects the tokenizer to count."""
    directory = tokenizer_directory(run)
    if find_tokenizer(directory) is not None:
        return []
    class_name = class_for_paddlenlp(directory)
    if class_name is None:
        return [f"no tokenizer in {directory}: training works on token ids alone"]
    return [
        f"the tokenizer in {directory} is a {class_name}, which only PaddleNLP reads: training "
        "takes the size of the vocabulary from the model alone; set vocab_size if the tokenizer "
        "has more tokens"
    ]


def model_config_of(run: RunConfig) -> ModelConfig:
    """The run's model, with room for its samples and for its tokenizer, if it has one.

    Raises:
        ConfigError: there is no such model.
        PreprocessError: the tokenizer is damaged.
    """
    directory = tokenizer_directory(run)
    vocab_size = None
    if find_tokenizer(directory) is not None:
        vocab_size = load_tokenizer(directory).vocab_size
    config = load_model_config(
        run.model.model_name_or_path,
        run.model,
        tokenizer_vocab_size=vocab_size,
        max_seq_length=run.data.max_seq_length,
    )
    extrapolation = config.extrapolation
    if extrapolation is None or not run.training.do_train:
        return config
    # What is trained on is no extrapolation: its evaluation is of the model that is trained.
    trained_length = max(extrapolation.trained_length, run.data.max_seq_length)
    return replace(config, extrapolation=replace(extrapolation, trained_length=trained_length))


def model_problems(run: RunConfig, model: ModelConfig, degrees: Degrees | None) -> list[str]:
    """Why the run can't have this model; in a layout, where that is known."""
    return [
        *missing_weights(run),
        *vocabulary_problems(run, model),
        *sample_problems(run, model),
        *MaximalUpdate(model, run.training).problems(),
        *([] if degrees is None else check_layout(run, model, degrees)),
    ]


def model_notices(run: RunConfig, model: ModelConfig, degrees: Degrees | None) -> list[str]:
    """What a user should know of the run's model; in a layout, where that is known."""
    fits = not missing_weights(run) and not vocabulary_problems(run, model)
    return [
        *tokenizer_notices(run),
        *depth_notices(run),
        *(vocabulary_notices(run, model) if fits else []),
        *([] if degrees is None else layout_notices(run, model, degrees)),
    ]


def missing_weights(run: RunConfig) -> list[str]:
    """The problem of a run that continues from weights that aren't there; [] if it has none."""
    name = run.model.model_name_or_path
    if not run.model.continue_training or has_weights(Path(name)):
        return []
    return [
        f"continue_training: {name} is no directory with weights; download the "
        "model and name its directory, or set continue_training to false"
    ]


def vocabulary_problems(run: RunConfig, model: ModelConfig) -> list[str]:
    """Why the table of the weights that a run continues from can't be that of `model`."""
    weights = Path(run.model.model_name_or_path)
    if not run.model.continue_training or not has_weights(weights):
        return []
    try:
        rows = table_rows(weights, model)
    except ConfigError as error:
        return list(error.problems)
    wanted = model.vocab_size
    if wanted < rows:
        return [
            f"vocab_size: the model has {wanted} rows and the weights in {weights} {rows}: rows "
            f"can be added and not taken away; set vocab_size to {rows}"
        ]
    if wanted == rows or run.model.resize_vocabulary:
        return []
    if wanted == run.model.vocab_size:
        return [
            f"vocab_size: {wanted} is more than the {rows} rows of the weights in {weights}; set "
            "resize_vocabulary to add rows, or leave vocab_size out"
        ]
    return [
        f"the tokenizer in {tokenizer_directory(run)} has {wanted} tokens, more than the {rows} "
        f"rows of the weights in {weights}; set resize_vocabulary to add rows, or name the "
        "tokenizer that belongs to the weights"
    ]


def sample_problems(run: RunConfig, model: ModelConfig) -> list[str]:
    """Why the model can't continue the run's `sample_prompts`."""
    prompts = run.training.sample_prompts
    if not prompts:
        return []
    if model.blank_infilling is not None:
        return ["sample_prompts: the model fills blanks and continues no text"]
    try:
        tokenizer = load_tokenizer(tokenizer_directory(run))
    except ValueError as error:
        return [f"sample_prompts: {error}"]
    empty = [prompt for prompt in prompts if not tokenizer.encode(prompt)]
    return [f"sample_prompts: {prompt!r} holds no token" for prompt in empty]


def vocabulary_notices(run: RunConfig, model: ModelConfig) -> list[str]:
    """What a user should know who lets the table grow, where nothing keeps it from that."""
    weights = Path(run.model.model_name_or_path)
    if not run.model.resize_vocabulary:
        return []
    if not run.model.continue_training:
        return [
            "resize_vocabulary: no effect: continue_training is false, and random weights have "
            "room for every token anyway"
        ]
    rows = table_rows(weights, model)
    if rows == model.vocab_size:
        return []
    return [
        f"resize_vocabulary: the model has {model.vocab_size} rows where the weights in {weights} "
        f"have {rows}; the others begin as random weights do"
    ]


def depth_notices(run: RunConfig) -> list[str]:
    """What a user should know who continues with fewer layers than there are weights of."""
    layers = run.model.num_hidden_layers
    if not run.model.continue_training or layers is None:
        return []
    published = read_model_config(run.model.model_name_or_path).num_hidden_layers
    if layers >= published:
        return []
    return [
        f"num_hidden_layers: the first {layers} of the model's {published} layers are trained; "
        "the weights of the others are not read"
    ]


def unread_weights(run: RunConfig) -> list[str]:
    """What a user should know whose model has weights that a new run would not start from."""
    name = run.model.model_name_or_path
    if run.sources["continue_training"] != "default" or not has_weights(Path(name)):
        return []
    return [
        f"continue_training: not set, so that the trained weights in {name} are not read and the "
        "model starts from random ones; set it to true to start from them"
    ]


def introduce(
    run: RunConfig,
    *,
    model: ModelConfig | None,
    weights: str | None,
    sources: Sources | None,
    degrees: Degrees | None,
) -> Iterator[str]:
    """A line on each of the four, but for what is None.

    `weights`: as `describe_weights` gives it.
    """
    if model is not None:
        name = run.model.model_name_or_path
        yield f"Model: {model.family}, {model.parameter_count():,} parameters ({name})"
    if weights is not None:
        yield f"Weights: {weights}"
    if sources is not None:
        tokens = 0 if degrees is None else plan_batches(run, degrees).train_tokens
        yield f"Data: {_data(sources, tokens)}"
    if degrees is not None:
        yield f"Layout: {describe_degrees(degrees)}"


def _data(sources: Sources, taken: int) -> str:
    """`taken`: tokens that training takes in all."""
    files = f" in {len(sources.files):,} files" if len(sources.files) > 1 else ""
    tokens = f"{sum(file.token_count for file in sources.files):,} tokens{files}"
    name = f"{len(sources.stages)} stages" if sources.stages else sources.data.input_dir or ""
    if files:
        # "weight prefix weight prefix …" may be very long.
        name = name if len(name) <= _LONGEST_BLEND else f"{name[: _LONGEST_BLEND - 1]}…"
    in_training = sum(sources.train_tokens)
    if not taken or not in_training:
        return f"{tokens} ({name})"
    epochs = epochs_text(taken / in_training)
    of_files = [
        taken * share / count
        for share, count in zip(sources.shares, sources.train_tokens, strict=True)
        if count
    ]
    low, high = epochs_text(min(of_files)), epochs_text(max(of_files))
    by_file = "" if low == high else f", by file {low} to {high}"
    return f"{tokens}, {in_training:,} to train on: {epochs} epochs{by_file} ({name})"
