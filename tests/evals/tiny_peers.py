"""Tiny causal language models and tokenizers of transformers, made on the spot."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

N_CONTEXT = 64
PLAIN = "der Fluss trägt die Brücke über den Hügel the river carries a bridge over hills "


def byte_level_tokenizer(**options):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([PLAIN] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", **options)


def byte_fallback_tokenizer():
    """As SentencePiece's, with a space before each text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzü", "▁d", "er", "▁der"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    merges = [("▁", "d"), ("e", "r"), ("▁d", "er")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def build(kind, *, n_context=N_CONTEXT):
    torch.manual_seed(1)
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=320,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=n_context,
                initializer_range=0.3,
            )
        )
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=320,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=n_context,
                initializer_range=0.3,
            )
        )
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=320,
            hidden_size=16,
            state_size=4,
            num_hidden_layers=2,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
