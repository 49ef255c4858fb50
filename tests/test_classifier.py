"""TextClassifier against the models themselves, one text at a time and without padding, for eleven families."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import DECODERS, FAMILIES, PAIRS, TEXTS
from torch import Tensor

from foveate.errors import RequestError
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded, _checked

BOTH = [*TEXTS, *PAIRS]
ODD = "  Dirty, unhappy\u00e9  x\n\u65e5\u672c \U0001f600 end "


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def made(family: str, tiny: Any) -> TextClassifier:
    return TextClassifier.from_pretrained(tiny(family))


def alone(classifier: TextClassifier, ids: Tensor, types: Tensor | None, **options: Any) -> Any:
    """The model itself on one row of token ids, with eager attention."""
    model = classifier.model
    before = model.config._attn_implementation
    kwargs = {} if types is None else {"token_type_ids": types[None]}
    model.config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            return model(input_ids=ids[None], **kwargs, **options)
    finally:
        model.config._attn_implementation = before


def row(encoded: Encoded, i: int) -> tuple[Tensor, Tensor | None]:
    n = int(encoded.lengths[i])
    return encoded.input_ids[i, :n], None if encoded.types is None else encoded.types[i, :n]


def test_attention_is_the_mean_of_what_the_model_outputs(made: TextClassifier) -> None:
    encoded = made.encode(BOTH)
    seen = made.predict(encoded, observe=True).observation
    assert seen is not None
    for i in range(len(encoded)):
        ids, types = row(encoded, i)
        n = len(ids)
        output = alone(made, ids, types, output_attentions=True)
        layers = torch.stack(output.attentions)[:, 0].mean(1)
        assert layers.std() > 1e-3  # far from uniform, so that a mix-up of axes would show
        torch.testing.assert_close(seen.attention[i, :n, :n], layers.mean(0), atol=1e-6, rtol=0)
        torch.testing.assert_close(seen.received[i, :, :n], layers.mean(1), atol=1e-6, rtol=0)
        pooled = {"modernbert": layers.mean(1)}.get(made.model.config.model_type, layers[:, 0])
        if made.model.config.model_type in DECODERS:
            pooled = layers[:, -1]
        torch.testing.assert_close(seen.pooled[i, :, :n], pooled, atol=1e-6, rtol=0)
        with torch.no_grad():
            hidden = made.model.base_model(
                input_ids=ids[None], **({} if types is None else {"token_type_ids": types[None]})
            )
        torch.testing.assert_close(seen.hidden[i, :n], hidden[0][0], atol=1e-5, rtol=1e-4)
        for rest in (seen.attention[i, n:], seen.attention[i, :, n:], seen.received[i, :, n:], seen.hidden[i, n:]):
            assert not rest.any()


def test_rollout_is_the_product_over_layers(made: TextClassifier) -> None:
    encoded = made.encode(BOTH)
    rows = torch.tensor([6, 0, 3])
    rollout = made.rollout(encoded, rows)
    for got, i in zip(rollout, rows.tolist(), strict=True):
        ids, types = row(encoded, i)
        n = len(ids)
        expected = torch.eye(n)
        for weights in alone(made, ids, types, output_attentions=True).attentions:
            expected = (weights[0].mean(0) + torch.eye(n)) / 2 @ expected
        torch.testing.assert_close(got[:n, :n], expected, atol=1e-6, rtol=0)
        assert not got[n:].any() and not got[:, n:].any()


@pytest.mark.parametrize("replacement", ["mask", "pad", "unk", "delete"])
def test_masked_rows_are_what_the_model_says_of_them_alone(family: str, tiny: Any, replacement: Any) -> None:
    model, tokenizer = tiny(family)
    stands = None if replacement == "delete" else getattr(tokenizer, f"{replacement}_token_id")
    if replacement != "delete" and stands is None:
        with pytest.raises(RequestError, match=f"has no {replacement} token: --replacement can be .*delete"):
            TextClassifier(model, tokenizer, replacement=replacement)
        return
    made = TextClassifier(model, tokenizer, replacement=replacement, batch_size=5)
    encoded = made.encode(BOTH)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(encoded), (12,), generator=generator)
    visible = torch.rand(12, encoded.input_ids.shape[1], generator=generator) < 0.6
    visible[0] = True
    visible[-1] = False  # everything but the special tokens, which stay
    for observe in (False, True):
        prediction = made.predict(encoded, rows, visible, observe=observe)
        for j, i in enumerate(rows.tolist()):
            hidden = encoded.maskable[i] & ~visible[j]
            kept = encoded.real[i] & ~hidden if stands is None else encoded.real[i]
            if not kept.any():
                assert prediction.logits[j].isfinite().all()
                continue
            ids = encoded.input_ids[i] if stands is None else encoded.input_ids[i].masked_fill(hidden, stands)
            output = _without_padding_search(
                made, ids[kept], encoded.types if encoded.types is None else encoded.types[i][kept]
            )
            torch.testing.assert_close(prediction.logits[j], output.logits[0], atol=1e-5, rtol=1e-4)
            if prediction.observation is not None:
                mean = torch.stack(output.attentions)[:, 0].mean((0, 1))
                got = prediction.observation.attention[j]
                torch.testing.assert_close(got[kept][:, kept], mean, atol=1e-6, rtol=0)
                assert not got[~kept].any() and not got[:, ~kept].any()
                assert not prediction.observation.hidden[j][~kept].any()


def _without_padding_search(classifier: TextClassifier, ids: Tensor, types: Tensor | None) -> Any:
    """A decoder's answer read at its last token, whatever that token's id."""
    config = classifier.model.config
    before = config.pad_token_id
    if config.model_type in DECODERS:
        config.pad_token_id = None
    try:
        return alone(classifier, ids, types, output_attentions=True)
    finally:
        config.pad_token_id = before


def test_nothing_depends_on_the_batch(made: TextClassifier) -> None:
    generator = torch.Generator().manual_seed(1)
    encoded = made.encode(BOTH)
    rows = torch.randint(len(encoded), (9,), generator=generator)
    visible = torch.rand(9, encoded.input_ids.shape[1], generator=generator) < 0.5
    together = made.predict(encoded, rows, visible, observe=True)
    for batch_size in (1, 4):
        made.batch_size = batch_size
        split = made.predict(encoded, rows, visible, observe=True)
        torch.testing.assert_close(split.logits, together.logits, atol=1e-5, rtol=1e-4)
        for name in ("attention", "received", "pooled", "hidden"):
            ours, theirs = getattr(split.observation, name), getattr(together.observation, name)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_padding_token_in_the_text_does_not_move_the_reading_position(tiny: Any) -> None:
    """GPT-2 padded with its end token, which also stands for masked words: HF's own search would go astray."""
    model, tokenizer = copy.deepcopy(tiny("gpt2"))
    tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    made = TextClassifier(model, tokenizer, replacement="pad")
    encoded = made.encode(["joy", "we love the dog"])
    visible = encoded.real.clone()
    visible[1, 2:] = False
    ids = encoded.input_ids[1].masked_fill(~visible[1], tokenizer.pad_token_id)
    expected = _without_padding_search(made, ids, None).logits[0]
    astray = alone(made, ids, None).logits[0]
    got = made.predict(encoded, visible=visible).logits[1]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert (got - astray).abs().max() > 1e-2


def test_the_model_is_left_as_it_was(made: TextClassifier) -> None:
    model = made.model
    config = model.config.to_dict()

    def state() -> tuple[Any, ...]:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        modes = [m.training for m in model.modules()]
        return hooks, modes, model.config._attn_implementation, model.config.pad_token_id

    before = state()
    encoded = made.encode(BOTH)
    made.predict(encoded)
    made.predict(encoded, observe=True)
    made.rollout(encoded)
    made.from_embeddings(made.embed(encoded), encoded)
    assert state() == before
    assert model.config.to_dict() == config
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_model_in_training_answers_without_dropout_and_goes_on_training(tiny: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny("bert"))
    expected = TextClassifier(model, tokenizer).predict(TextClassifier(model, tokenizer).encode(TEXTS)).logits
    model.train()
    made = TextClassifier(model, tokenizer)
    assert torch.equal(made.predict(made.encode(TEXTS)).logits, expected)
    assert all(module.training for module in model.modules())


def test_pairs_have_the_tokenizers_own_segments(made: TextClassifier) -> None:
    encoded = made.encode([*TEXTS[:2], *PAIRS])
    for i, pair in enumerate(PAIRS, 2):
        alone_ = made.tokenizer(*pair, return_tensors="pt")
        n = alone_["input_ids"].shape[1]
        assert torch.equal(encoded.input_ids[i, :n], alone_["input_ids"][0])
        assert (encoded.types is not None) == ("token_type_ids" in alone_)
        if encoded.types is not None:
            assert torch.equal(encoded.types[i, :n], alone_["token_type_ids"][0])
            assert encoded.types[i, n - 1] == 1  # the closing separator belongs to the second text
        with torch.no_grad():
            expected = made.model(**alone_).logits[0]
        torch.testing.assert_close(made.predict(encoded).logits[i], expected, atol=1e-5, rtol=1e-4)
    for i, (first, second) in enumerate(PAIRS, 2):
        for text, segment in ((first, 0), (second, 1)):
            mine = encoded.maskable[i] & (encoded.segments[i] == segment)
            pieces = [text[s:e] for s, e in encoded.offsets[i, mine].tolist()]
            assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_offsets_are_the_visible_characters(made: TextClassifier) -> None:
    texts = [*TEXTS, ODD]
    encoded = made.encode(texts)
    for i, text in enumerate(texts):
        spans = encoded.offsets[i, encoded.maskable[i]].tolist()
        for start, end in spans:
            piece = text[start:end]
            assert piece == piece.strip() or not piece.strip()
        covered = {k for start, end in spans for k in range(start, end)}
        assert covered >= {k for k, character in enumerate(text) if not character.isspace()}
        assert not encoded.offsets[i, ~encoded.maskable[i]].any()
    words = [TEXTS[0][s:e] for s, e in encoded.offsets[0, encoded.maskable[0]].tolist()]
    assert words == TEXTS[0].split()


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_texts(made: TextClassifier, text: str) -> None:
    encoded = made.encode([text, "joy", ""])
    assert not encoded.maskable[2].any()
    prediction = made.predict(encoded, observe=True)
    assert prediction.logits.isfinite().all()
    torch.testing.assert_close(
        prediction.logits[0] if not text else prediction.logits[2],
        made.predict(made.encode([""])).logits[0],
        atol=1e-5,
        rtol=1e-4,
    )
    only = made.encode([""])
    seen = made.predict(only, observe=True).observation
    assert seen is not None and bool(seen.attention.any()) == bool(only.real.any())


def test_no_texts(made: TextClassifier) -> None:
    encoded = made.encode([])
    prediction = made.predict(encoded, observe=True)
    assert len(encoded) == 0 and prediction.probabilities.shape == (0, 3)
    some = made.encode(TEXTS)
    none = torch.zeros(0, dtype=torch.long)
    assert made.predict(some, none, observe=True).logits.shape == (0, 3)
    assert len(some.select(none)) == 0


def test_long_texts_are_cut_and_say_so(made: TextClassifier) -> None:
    limit = 8192 if made.model.config.model_type == "modernbert" else 512
    assert made.max_tokens == limit
    around = int(made.encode(["the the the"]).lengths[0]) - 3
    fits = " ".join(["the"] * (limit - around))
    encoded = made.encode([fits, fits + " the", "joy"])
    assert encoded.truncated.tolist() == [False, True, False]
    assert encoded.lengths[:2].tolist() == [limit, limit]
    assert torch.equal(encoded.input_ids[0], encoded.input_ids[1])
    pairs = made.encode([(fits, "the dog"), ("the", "the dog")])
    assert pairs.truncated.tolist() == [True, False]
    assert pairs.segments[0].sum() == pairs.segments[1].sum()  # the longer text gave way
    prediction = made.predict(encoded, torch.tensor([0]), observe=limit == 512)
    assert prediction.logits.isfinite().all()
    if prediction.observation is not None:
        torch.testing.assert_close(prediction.observation.attention.sum(-1), torch.ones(1, 512))


def test_embeddings_stand_for_tokens(made: TextClassifier) -> None:
    encoded = made.encode(BOTH)
    rows = torch.tensor([5, 1, 1, 7])
    torch.testing.assert_close(
        made.from_embeddings(made.embed(encoded, rows), encoded, rows),
        made.predict(encoded, rows).logits,
        atol=1e-5,
        rtol=1e-4,
    )
    visible = torch.ones(4, encoded.input_ids.shape[1], dtype=torch.bool)
    visible[:, 2] = False
    hidden = made.embed(encoded, rows, visible)
    if made.replacement == "delete":
        assert not hidden[:, 2].any() and hidden[:, 1].any()
    else:
        given = made.from_embeddings(hidden, encoded, rows)
        torch.testing.assert_close(given, made.predict(encoded, rows, visible).logits, atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_embeddings(made: TextClassifier) -> None:
    encoded = made.encode(BOTH)
    rows = torch.tensor([1, 4])
    start = made.embed(encoded, rows).requires_grad_()
    (slope,) = torch.autograd.grad(made.from_embeddings(start, encoded, rows)[:, 0].sum(), start)
    assert not slope[0, encoded.lengths[1] :].any()
    step = torch.zeros_like(start)
    step[0, 1] = slope[0, 1] / slope[0, 1].norm() * 1e-2
    with torch.no_grad():
        ahead, behind = (made.from_embeddings(start + sign * step, encoded, rows)[0, 0] for sign in (1, -1))
    assert (ahead - behind).item() / 2e-2 == pytest.approx(slope[0, 1].norm().item(), rel=0.05)


def test_special_tokens_are_never_replaced(classifier: TextClassifier) -> None:
    encoded = classifier.encode(TEXTS)
    nothing = torch.zeros_like(encoded.real)
    expected = classifier.predict(encoded, visible=~encoded.maskable).logits
    assert torch.equal(classifier.predict(encoded, visible=nothing).logits, expected)


def test_select_trims(classifier: TextClassifier) -> None:
    encoded = classifier.encode(BOTH)
    some = encoded.select(torch.tensor([3, 1]))
    assert some.texts == (TEXTS[3], TEXTS[1]) and some.input_ids.shape[1] == int(encoded.lengths[1])
    torch.testing.assert_close(
        classifier.predict(some).logits, classifier.predict(encoded).logits[[3, 1]], atol=1e-5, rtol=0
    )


def test_loading_from_a_directory(made: TextClassifier, tmp_path: Any) -> None:
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = TextClassifier.from_pretrained(tmp_path)
    assert loaded.name == str(tmp_path) and loaded.labels == ("bad", "neutral", "good")
    torch.testing.assert_close(
        loaded.predict(loaded.encode(BOTH)).logits, made.predict(made.encode(BOTH)).logits, atol=1e-5, rtol=1e-4
    )


def test_what_cannot_be_loaded(tiny: Any, tmp_path: Any) -> None:
    with pytest.raises(RequestError, match=r"cannot load a classifier from .*nowhere"):
        TextClassifier.from_pretrained(tmp_path / "nowhere")
    model, tokenizer = tiny("bert")
    model.base_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"not fine-tuned.*classifier\.weight"):
        TextClassifier.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RequestError, match="cannot load"):
        TextClassifier.from_pretrained(tmp_path)


def test_models_that_do_not_choose_a_label(tiny: Any) -> None:
    for change, message in (
        ({"num_labels": 1}, "one output"),
        ({"problem_type": "multi_label_classification"}, "several labels"),
    ):
        model, tokenizer = copy.deepcopy(tiny("bert"))
        for name, value in change.items():
            setattr(model.config, name, value)
        with pytest.raises(RequestError, match=message):
            TextClassifier(model, tokenizer)


def test_a_slow_tokenizer_is_refused(tiny: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(RequestError, match="fast tokenizer"):
        TextClassifier(tiny("bert")[0], Slow())


def test_a_token_that_the_model_has_no_embedding_for_cannot_replace(tiny: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny("gpt2"))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert TextClassifier(model, tokenizer).replacement == "delete"
    with pytest.raises(RequestError, match="can be unk or delete"):
        TextClassifier(model, tokenizer, replacement="mask")


def test_nan_is_reported(tiny: Any) -> None:
    model, tokenizer = copy.deepcopy(tiny("bert"))
    made = TextClassifier(model, tokenizer)
    encoded = made.encode(TEXTS)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(RequestError, match="the model returned NaN"):
        made.predict(encoded)


@pytest.mark.parametrize("text", [3, None, ("a", "b", "c"), ("a", 1), "\ud800"])
def test_what_is_not_a_text(text: Any) -> None:
    # Not through `encode`, where the tests' own type check would be first.
    with pytest.raises(RequestError, match=r"^text 1 "):
        _checked(1, text)


def test_a_model_without_attention_and_without_a_padding_mask(tiny: Any) -> None:
    """FNet mixes all positions, padding too: it is sent rows of one length, and only observing it is refused."""
    from transformers import FNetConfig, FNetForSequenceClassification

    _, tokenizer = tiny("bert")
    config = FNetConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=16,
        num_labels=3,
        type_vocab_size=2,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = TextClassifier(FNetForSequenceClassification(config).eval(), tokenizer)
    encoded = made.encode(BOTH)
    logits = made.predict(encoded).logits
    for i in range(len(encoded)):
        ids, types = row(encoded, i)
        with torch.no_grad():
            expected = made.model(
                input_ids=ids[None], token_type_ids=types[None] if types is not None else None
            ).logits[0]
        torch.testing.assert_close(logits[i], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(RequestError, match="no attention weights"):
        made.predict(encoded, observe=True)
    with pytest.raises(RequestError, match="no attention weights"):
        made.rollout(encoded)


def test_bfloat16_autocast_is_near(tiny: Any) -> None:
    plain, cast = (TextClassifier(*tiny("bert"), autocast=autocast) for autocast in (False, True))
    encoded = plain.encode(TEXTS)
    exact, rough = plain.predict(encoded, observe=True), cast.predict(encoded, observe=True)
    assert rough.logits.dtype == torch.float32
    assert not torch.equal(exact.logits, rough.logits)
    torch.testing.assert_close(exact.logits, rough.logits, atol=0.1, rtol=0.1)
    assert exact.observation is not None and rough.observation is not None
    torch.testing.assert_close(exact.observation.attention, rough.observation.attention, atol=0.02, rtol=0)
