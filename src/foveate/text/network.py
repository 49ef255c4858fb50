"""One forward pass of any Hugging Face sequence classifier, and its attention handed over layer by layer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveate.errors import RequestError

Watch = Callable[[Tensor], None]
"""Is given each layer's attention weights, rows × heads × queries × keys, and must not keep them."""


@dataclass(frozen=True)
class Anatomy:
    """What a model shows of itself when it is run on a few tokens."""

    reads: Literal["first", "last", "mean"]
    """The position whose last hidden state its head classifies; "mean" for any mixture."""
    pads: bool
    """Whether its answer is the same when rows are padded on the right."""
    attention: tuple[nn.Module, ...]
    """The modules that hand out attention weights."""
    must_ask: bool
    """Whether they do so only for output_attentions=True."""
    layers: int
    """How many layers' weights one pass hands out."""
    width: int
    """Width of the last hidden state."""


class Network:
    """A model, run on tensors alone; it is left as it was found."""

    def __init__(self, model: Any, autocast: bool) -> None:
        self.model = model
        self.autocast = autocast
        parameters = inspect.signature(model.forward).parameters
        self.takes_types = "token_type_ids" in parameters
        self.takes_mask = "attention_mask" in parameters
        self._fixed = {"use_cache": False} if "use_cache" in parameters else {}
        configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
        self._configs = [c for c in configs.values() if hasattr(c, "_attn_implementation")]
        self._text_config: Any = model.config.get_text_config()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def embeddings(self) -> Any:
        """The module that embeds token ids."""
        return self.model.get_input_embeddings()

    def __call__(
        self,
        ids: Int[Tensor, "rows tokens"],
        real: Bool[Tensor, "rows tokens"],
        types: Int[Tensor, "rows tokens"] | None,
        reading: Int[Tensor, " rows"],
        *,
        embeddings: Float[Tensor, "rows tokens embedding"] | None = None,
        watch: Watch | None = None,
    ) -> tuple[Float[Tensor, "rows labels"], Float[Tensor, "rows tokens width"]]:
        """Logits and last hidden states; `reading` is what `reading_position` said of the texts as they were written.

        `embeddings` take the place of what the model's own layer makes of `ids`.
        """
        if watch is not None and not self.anatomy.attention:
            raise RequestError(
                f"{type(self.model).__name__} gives no attention weights: use a method that does not read attention"
            )
        with ExitStack() as stack:
            if self.anatomy.reads == "last":
                # A causal classifier looks for the last token that is not config.pad_token_id. Masked tokens may be
                # equal to it, or it may be missing, so the ids only show the way (1 up to the position, 0 after it)
                # and the tokens come as embeddings.
                if embeddings is None:
                    embeddings = self.embeddings(ids)
                ids = (torch.arange(ids.shape[1], device=ids.device) <= reading[:, None]).long()
                stack.enter_context(_set([self._text_config], "pad_token_id", 0))
            if embeddings is not None:
                stack.enter_context(self._embedding(embeddings))
            if watch is not None:
                stack.enter_context(self._watching(watch, self.anatomy.attention, self.anatomy.must_ask))
            return self._run(ids, real, types, ask=watch is not None and self.anatomy.must_ask)

    def reading_position(
        self, ids: Int[Tensor, "rows tokens"], real: Bool[Tensor, "rows tokens"]
    ) -> Int[Tensor, " rows"]:
        """Where the model's head reads these texts: for a causal classifier, its own last token that is not padding."""
        if self.anatomy.reads != "last":
            return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        pad = self._text_config.pad_token_id
        readable = real if pad is None else real & (ids != pad)
        return (readable * torch.arange(ids.shape[1], device=ids.device)).amax(1)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Learned by running the model, since neither class names nor configs say it for every family."""
        short = slice(0, 5)
        with torch.inference_mode(False), torch.enable_grad(), _evaluating(self.model):
            ids = torch.arange(8, device=self.device)[None]
            real = torch.ones_like(ids, dtype=torch.bool)
            start = self.embeddings(ids[:, short]).detach().requires_grad_()
            with self._embedding(start):
                logits, hidden = self._run(ids[:, short], real[:, short], None)
            (slope,) = torch.autograd.grad(logits.float().square().sum(), hidden)
        read = slope[0].abs().sum(-1).nonzero().flatten().tolist()
        reads: Literal["first", "last", "mean"] = "first" if read == [0] else "last" if len(read) == 1 else "mean"
        with torch.inference_mode():
            modules, must_ask, layers = self._find_attention(ids[:, short], real[:, short])
            known = Anatomy(reads, True, tuple(modules), must_ask, layers, hidden.shape[-1])
            self.__dict__["anatomy"] = known  # what follows runs the model through this method
            padded, shown = ids.expand(2, -1).clone(), real.expand(2, -1).clone()
            padded[0, short.stop :] = 0
            shown[0, short.stop :] = False
            reading = self.reading_position(padded, shown)
            together, _ = self(padded, shown, None, reading)
        apart = logits[0].detach()
        close = torch.allclose(
            together[0], apart, rtol=0.02, atol=0.02 * float(apart.nan_to_num().abs().max()), equal_nan=True
        )
        return known if close else replace(known, pads=False)

    def _find_attention(self, ids: Tensor, real: Tensor) -> tuple[list[nn.Module], bool, int]:
        for must_ask in (False, True):
            found: list[nn.Module] = []
            modules = tuple(self.model.modules())
            try:
                with self._watching(lambda weights: None, modules, must_ask, found.append):
                    self._run(ids, real, None, ask=must_ask)
            except (RuntimeError, TypeError, ValueError):
                # transformers 4 chooses some attention classes when it builds the model, and cannot switch them.
                continue
            if found:
                return list(dict.fromkeys(found)), must_ask, len(found)
        return [], False, 0

    def _run(self, ids: Tensor, real: Tensor, types: Tensor | None, ask: bool = False) -> tuple[Tensor, Tensor]:
        named: dict[str, Any] = {"input_ids": ids, **self._fixed}
        if self.takes_mask:
            named["attention_mask"] = real.long()
        if self.takes_types and types is not None:
            named["token_type_ids"] = types
        if ask:
            named["output_attentions"] = True
        hidden: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(lambda module, args, output: hidden.append(output[0]))
        try:
            with _evaluating(self.model), torch.autocast(ids.device.type, torch.bfloat16, enabled=self.autocast):
                logits = self.model(**named, return_dict=True).logits
        finally:
            hook.remove()
        return logits.float(), hidden[-1]

    @contextmanager
    def _embedding(self, embeddings: Tensor) -> Iterator[None]:
        used: list[bool] = []

        def give(module: nn.Module, args: Any, output: Any) -> Tensor:
            used.append(True)
            return embeddings

        hook = self.embeddings.register_forward_hook(give)
        try:
            yield
        finally:
            hook.remove()
        if len(used) != 1:
            raise RequestError(
                f"{type(self.model).__name__} embeds its input {len(used)} times: give a model that does so once"
            )

    @contextmanager
    def _watching(
        self,
        watch: Watch,
        modules: tuple[nn.Module, ...],
        must_ask: bool,
        found: Callable[[nn.Module], None] = lambda module: None,
    ) -> Iterator[None]:
        def take(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, tuple):
                return output
            for i, part in enumerate(output[1:], 1):
                if isinstance(part, Tensor) and part.dim() == 4 and part.shape[-1] == part.shape[-2]:
                    found(module)
                    watch(part)
                    # Nobody may keep the weights: the modules around, and transformers' own recorders, see None.
                    return (*output[:i], None, *output[i + 1 :])
            return output

        with ExitStack() as stack:
            if must_ask:
                stack.enter_context(_quiet())
            stack.enter_context(_set(self._configs, "_attn_implementation", "eager"))
            for module in modules:
                stack.callback(module.register_forward_hook(take, prepend=True).remove)
            yield


@contextmanager
def _set(objects: list[Any], name: str, value: Any) -> Iterator[None]:
    """Give every object this attribute, and its own one back."""
    before = [getattr(o, name) for o in objects]
    try:
        for o in objects:
            setattr(o, name, value)
        yield
    finally:
        for o, own in zip(objects, before, strict=True):
            setattr(o, name, own)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, also for a model that somebody is training."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers 4's warning, at each call, that attention weights need eager attention."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Sums:
    """The attention of one batch, summed over layers as they pass."""

    def __init__(
        self,
        real: Bool[Tensor, "rows tokens"],
        reads: Literal["first", "last", "mean"],
        reading: Int[Tensor, " rows"],
    ) -> None:
        self._hidden = ~(real[:, :, None] & real[:, None, :])
        self._count = real.sum(1, keepdim=True).clamp(min=1)
        self._reads, self._reading = reads, reading
        self._rows = torch.arange(len(real), device=real.device)
        self._total: Tensor | None = None
        self._received: list[Tensor] = []
        self._pooled: list[Tensor] = []

    def __call__(self, weights: Float[Tensor, "rows heads tokens tokens"]) -> None:
        mean = weights.mean(1, dtype=torch.float32).masked_fill_(self._hidden, 0.0)
        self._total = mean.clone() if self._total is None else self._total.add_(mean)
        received = mean.sum(1) / self._count
        self._received.append(received)
        self._pooled.append(received if self._reads == "mean" else mean[self._rows, self._reading])

    def read(self, hidden: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows width"]:
        """The hidden state that the head reads."""
        if self._reads == "mean":
            real = ~self._hidden.diagonal(dim1=1, dim2=2)
            return (hidden * real[:, :, None]).sum(1) / self._count
        return hidden[self._rows, self._reading]

    @property
    def attention(self) -> Float[Tensor, "rows tokens tokens"]:
        """Mean over layers and heads."""
        assert self._total is not None
        return self._total / len(self._received)

    @property
    def received(self) -> Float[Tensor, "rows layers tokens"]:
        """Mean over heads and queries."""
        return torch.stack(self._received, 1)

    @property
    def pooled(self) -> Float[Tensor, "rows layers tokens"]:
        """Mean over heads, from where the head reads."""
        return torch.stack(self._pooled, 1)


class Rollout:
    """Attention rollout: the product over layers of (A + I) / 2, A the mean over heads.

    Source: Abnar & Zuidema 2020, section 3.
    """

    def __init__(self) -> None:
        self._product: Tensor | None = None

    def __call__(self, weights: Float[Tensor, "rows heads tokens tokens"]) -> None:
        mean = weights.mean(1, dtype=torch.float32)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
        self._product = step if self._product is None else step @ self._product

    @property
    def attention(self) -> Float[Tensor, "rows tokens tokens"]:
        assert self._product is not None
        return self._product
