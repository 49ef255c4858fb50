"""Peak memory of observing attention, against output_attentions=True, on a BERT-base-sized model.

    python benchmarks/attention_memory.py [--rows 32] [--tokens 512]

Each runs in its own process; both end with the mean over layers and heads. Prints the peak resident memory of each,
what of it came after the model was loaded, and their ratios. output_attentions=True holds layers × heads × tokens²
weights a row, foveate those of one layer.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from foveate.text.classifier import EMBEDDED, TextClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--way", choices=["foveate", "output_attentions"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(observe(options.way, options.rows, options.tokens)))
        return
    found = {}
    for way in ("foveate", "output_attentions"):
        command = [sys.executable, __file__, "--way", way, "--rows", str(options.rows), "--tokens", str(options.tokens)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[way] = json.loads(answer.splitlines()[-1])
        peak, added = found[way]["peak"], found[way]["added"]
        print(f"{way:18} peak {peak:7.0f} MiB, of it {added:7.0f} MiB after loading", flush=True)
    ours, theirs = found["foveate"], found["output_attentions"]
    difference = max(abs(a - b) for a, b in zip(ours["sample"], theirs["sample"], strict=True))
    ratios = {name: theirs[name] / ours[name] for name in ("peak", "added", "seconds")}
    print(
        f"output_attentions=True takes {ratios['peak']:.2f} times the peak, {ratios['added']:.2f} times the added "
        f"memory and {ratios['seconds']:.2f} times the processor time; "
        f"the attention differs by at most {difference:.1e}"
    )


def observe(way: str, rows: int, tokens: int) -> dict[str, object]:
    """Peak resident memory in MiB, what was added after loading, processor seconds, and some of the attention."""
    logging.set_verbosity_error()
    torch.manual_seed(0)
    tokenizer = TextClassifier.from_pretrained(EMBEDDED["emotion"]).tokenizer
    config = BertConfig(vocab_size=len(tokenizer), num_labels=6, max_position_embeddings=tokens)
    tokenizer.model_max_length = tokens
    model = BertForSequenceClassification._from_config(config, attn_implementation="eager").eval()
    classifier = TextClassifier(model, tokenizer)
    encoded = classifier.encode(["i feel so very happy " * tokens] * rows)
    classifier.predict(classifier.encode(["i feel happy"]), observe=True)
    before = _peak()
    begun = time.process_time()
    if way == "foveate":
        seen = classifier.predict(encoded, observe=True).observation
        assert seen is not None
        attention = seen.attention
    else:
        with torch.inference_mode():
            output = model(input_ids=encoded.input_ids, attention_mask=encoded.real.long(), output_attentions=True)
            attention = sum(weights.mean(1) for weights in output.attentions) / len(output.attentions)
    seconds = time.process_time() - begun
    return {"peak": _peak(), "added": _peak() - before, "seconds": seconds, "sample": attention[0, 0, :64].tolist()}


def _peak() -> float:
    """MiB; ru_maxrss is in KiB on Linux and in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
