"""Which words made the classifier say so?"""

import foveate

explainer = foveate.Explainer.from_pretrained()
explanation = explainer("i feel dirty and ashamed for saying that")

print(explanation)
for step in explanation.path:
    tokens = ", ".join(explanation.tokens[i].text for i in step.action)
    print(f"{tokens:10}  p({explanation.label}) = {step.probability:.3f}, predicted: {step.label}")
