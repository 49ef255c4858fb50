"""Tiny classifiers of every supported family, made from a config with seeded random weights: no network, no files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

# The shapes in the signatures are promises: the tests hold the library to them at run time.
with install_import_hook("foveate", "beartype.beartype"):
    from foveate.text.classifier import TextClassifier

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

WORDS = """a the i am feel feeling so very not is was that it this movie film and or of to in on with for dirty ashamed
happy sad good bad love hate joy anger fear great awful charming journey saying man woman dog cat sleeps runs outside
nobody somebody playing guitar street people are we you he she they never always really quite dull bright""".split()  # noqa: SIM905

TEXTS = (
    "i feel so dirty and ashamed for saying that",
    "a charming and great journey",
    "the film is not good , it is awful",
    "joy",
    "we love the bright movie and the dog that sleeps on the street",
)
"""Texts made of the tiny vocabularies' words."""

PAIRS = (
    ("a man is playing guitar on the street", "nobody is playing"),
    ("the dog runs outside", "a cat sleeps in the street and the dog is happy"),
    ("people love joy", "they are happy"),
)

ENCODERS = ("bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "xlm-roberta", "modernbert")
DECODERS = ("gpt2", "llama", "qwen2")
FAMILIES = ENCODERS + DECODERS


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], tuple[Any, Any]]:
    """`tiny(family)` is a (model, tokenizer) pair, made once a session: leave it as you found it."""
    return _tiny


@pytest.fixture(scope="session")
def classifier() -> TextClassifier:
    """A tiny BERT with three labels, whose predictions really depend on the words."""
    return TextClassifier.from_pretrained(_tiny("bert"))


@cache
def _tiny(family: str) -> tuple[Any, Any]:
    tokenizer = _TOKENIZERS[family]()
    width = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    positions = {"max_position_embeddings": 512}
    special: dict[str, Any] = {
        "bert": {**positions},
        "roberta": {"max_position_embeddings": 514, "type_vocab_size": 1},
        "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, **positions},
        "albert": {"embedding_size": 16, "num_hidden_groups": 1, **positions},
        "electra": {"embedding_size": 16, **positions},
        "deberta-v2": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": 32,
            **positions,
        },
        "xlm-roberta": {"max_position_embeddings": 514, "type_vocab_size": 1},
        "modernbert": {
            "max_position_embeddings": 8192,
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
            "classifier_pooling": "mean",
            "cls_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        },
        "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
        "llama": {"num_key_value_heads": 2, **positions},
        "qwen2": {"num_key_value_heads": 2, **positions},
    }[family]
    names = {} if family in ("distilbert", "gpt2") else width
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    # Large weights, so that a tiny model's answer turns on its words and its attention is far from uniform.
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        id2label={0: "bad", 1: "neutral", 2: "good"},
        label2id={"bad": 0, "neutral": 1, "good": 2},
        initializer_range=0.25,
        **{**names, **special, **ids},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    return model.eval(), tokenizer


def _fast(tokenizer: Tokenizer, limit: int, **tokens: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **tokens)


def _template(tokenizer: Tokenizer, single: str, pair: str, *tokens: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in tokens]
    )


def _characters() -> list[str]:
    return [chr(code) for code in range(33, 127)]


def _wordpiece(segments: bool = True) -> PreTrainedTokenizerFast:
    characters = _characters()
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *characters,
        *("##" + c for c in characters),
        "##ing",
        "##ed",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")
    return _fast(
        tokenizer,
        512,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    )


def _byte_bpe(first: list[str], prefix: bool, last: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE that knows every word of WORDS with a space before it, and every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*first, *alphabet])}
    merges = _merges(["Ġ" + word for word in WORDS], vocabulary)
    for piece in last:
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(words: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that build each word from left to right; what they make is added to the vocabulary."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(2, len(word) + 1):
            merges.setdefault((word[: end - 1], word[end - 1]))
            vocabulary.setdefault(word[:end], len(vocabulary))
    return list(merges)


def _roberta() -> PreTrainedTokenizerFast:
    tokenizer = _byte_bpe(["<s>", "<pad>", "</s>", "<unk>"], prefix=False, last=("<mask>",))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return _fast(
        tokenizer,
        512,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _modernbert() -> PreTrainedTokenizerFast:
    tokenizer = _byte_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"], prefix=False)
    _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", "[CLS]", "[SEP]")
    return _fast(
        tokenizer,
        8192,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _gpt2() -> PreTrainedTokenizerFast:
    """No padding token and no special tokens around the text, as published."""
    tokenizer = _byte_bpe([], prefix=False, last=("<|endoftext|>",))
    end = "<|endoftext|>"
    return _fast(
        tokenizer, 1024, bos_token=end, eos_token=end, unk_token=end, model_input_names=["input_ids", "attention_mask"]
    )


def _qwen2() -> PreTrainedTokenizerFast:
    tokenizer = _byte_bpe([], prefix=False, last=("<|endoftext|>", "<|im_end|>"))
    tokenizer.normalizer = normalizers.NFC()
    return _fast(
        tokenizer,
        32768,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _llama() -> PreTrainedTokenizerFast:
    """A sentencepiece BPE with byte fallback, no padding token and no stated maximum."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *_characters()]
    vocabulary = {piece: i for i, piece in enumerate(first)}
    merges = _merges(["▁" + word for word in WORDS], vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _template(tokenizer, "<s> $A", "<s> $A <s> $B", "<s>")
    return _fast(
        tokenizer,
        int(1e30),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _unigram(
    first: list[str], single: str, pair: str, ends: tuple[str, ...], segments: bool, **tokens: str
) -> PreTrainedTokenizerFast:
    pieces = [(piece, 0.0) for piece in first] + [("▁" + word, -float(len(word) > 3) - 1) for word in WORDS]
    pieces += [(character, -10.0) for character in ("▁", *_characters())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=first.index(tokens["unk_token"]), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _template(tokenizer, single, pair, *ends)
    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return _fast(tokenizer, 512, model_input_names=names, **tokens)


def _albert() -> PreTrainedTokenizerFast:
    return _unigram(
        ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        ("[CLS]", "[SEP]"),
        segments=True,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _deberta() -> PreTrainedTokenizerFast:
    return _unigram(
        ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        ("[CLS]", "[SEP]"),
        segments=True,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _xlm_roberta() -> PreTrainedTokenizerFast:
    return _unigram(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
        ("<s>", "</s>"),
        segments=False,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )


_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bert": _wordpiece,
    "roberta": _roberta,
    "distilbert": lambda: _wordpiece(segments=False),
    "albert": _albert,
    "electra": _wordpiece,
    "deberta-v2": _deberta,
    "xlm-roberta": _xlm_roberta,
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
}
