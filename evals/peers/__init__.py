"""Peers: causal language models that others trained, evaluated by the same ruler.

    model=FOLDER            as save_pretrained writes it, weights in safetensors
    model=FILE.gguf         de-quantised to the precision that is asked for
    model=package:NAME      the one .gguf file that an installed Python package ships

Nothing is downloaded, no code of a model's own runs, and nothing is unpickled.
"""

from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evals.contract import Subject
from evals.examinee import DTYPES, Examinee, count_parameters, name_device
from evals.options import Options
from evals.peers.files import PeerFiles, find_files, hash_files
from evals.peers.model import HuggingFaceModel
from evals.peers.tokenizer import HuggingFaceTokenizer
from helix.config import ConfigError, first_line
from helix.distributed import local_device

UNSTATED_CONTEXT = 2048  # where neither config nor tokenizer tells; a state-space model's do not


def open_peer(options: Options) -> Examinee:
    """Load a model of others for evaluation.

    Raises:
        ConfigError: There is no such model, its weights are pickled or incomplete, or it needs a
            library that is not installed.
        TokenizerError: Its tokenizer loses text.
    """
    files = find_files(options.model)
    loaded = load_model(files, options)
    tokenizer = load_tokenizer(files, n_vocab=loaded.config.get_text_config().vocab_size)
    n_context = trained_context(loaded)
    model = HuggingFaceModel(loaded, n_context=n_context).to(local_device()).eval()
    subject = Subject(
        name=files.name,
        checkpoint=hash_files(files),
        step=None,
        tokenizer=tokenizer.fingerprint,
        precision=options.precision,
        backends={"attention": str(loaded.config._attn_implementation), "reading": model.reading},
        device=name_device(),
        n_parameters=count_parameters(model),
    )
    warnings = tuple(
        f"its tokenizer {change}: such text is scored so" for change in tokenizer.changes
    )
    return Examinee(
        model, tokenizer, subject, n_context or UNSTATED_CONTEXT, None, warnings=warnings
    )


def load_model(files: PeerFiles, options: Options) -> PreTrainedModel:
    """Load the weights; all of them must be there."""
    transformers.utils.logging.disable_progress_bar()
    forced = {"attn_implementation": "eager"} if options.backends == "reference" else {}
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            files.folder,
            dtype=DTYPES[options.precision],
            use_safetensors=True,
            output_loading_info=True,
            **forced,
            **origin(files),
        )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ConfigError(f"model={files.name}: cannot be loaded ({first_line(error)})") from error
    loaded, report = found
    missing = sorted({*map(str, report["missing_keys"]), *map(str, report["mismatched_keys"])})
    if missing:
        raise ConfigError(
            f"model={files.name}: {len(missing)} weights are missing or of another shape, as "
            f"{missing[0]}; they would be random: save the model again, whole"
        )
    return loaded


def load_tokenizer(files: PeerFiles, *, n_vocab: int) -> HuggingFaceTokenizer:
    """Load the tokenizer that lies beside the weights, or in their file."""
    try:
        loaded = AutoTokenizer.from_pretrained(files.folder, use_fast=True, **origin(files))
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ConfigError(
            f"model={files.name}: its tokenizer cannot be loaded ({first_line(error)}); save it "
            "beside the weights with save_pretrained"
        ) from error
    return HuggingFaceTokenizer(loaded, n_vocab=n_vocab, name=files.name)


def origin(files: PeerFiles) -> dict[str, object]:
    """Say where to load from: this machine alone, and no code that came with the model."""
    own = {"gguf_file": files.gguf} if files.gguf else {}
    return {"local_files_only": True, "trust_remote_code": False, **own}


def trained_context(model: PreTrainedModel) -> int | None:
    """Give the positions that a model was trained on; None where it has no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None
