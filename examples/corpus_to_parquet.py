"""Explain a whole file of texts in bounded memory, and keep the explanations in a Parquet file.

python examples/corpus_to_parquet.py texts.jsonl explanations.parquet
"""

import sys

import foveate
from foveate.text.inputs import Row, read_rows

source, output = sys.argv[1:]
explainer = foveate.Explainer.from_pretrained(method="attention")
texts = (row.text for row in read_rows(source) if isinstance(row, Row))
foveate.save(explainer.explain_stream(texts), output)

solved = [explanation.solved for explanation in foveate.read(output)]
print(f"{sum(solved)} of {len(solved)} solved")
