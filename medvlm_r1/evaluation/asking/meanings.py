"""What each arm of an evaluation asks, in words: for ``--help`` and the report. It imports nothing, so that help comes at once."""

DEFAULT_ARMS = "image,blank,mismatch"
MEANINGS = {
    "image": "its own picture",
    "blank": "a grey picture of the same size",
    "noise": "grey noise of the same size, mean and spread",
    "mismatch": "another patient's picture of the same modality, where possible one with another answer",
    "crop": "its own picture cropped by a fiftieth on each side and encoded again: does it know the pictures by heart?",
    "rotate": "its own picture, the options in every cyclic order",
    "hard": "its own picture, distractors that are answers elsewhere",
    "no-think": "its own picture, asked for the answer alone",
    "empty-thought": "made to answer after an empty thought",
    "half-thought": "made to answer after the first half of its own thought",
    "swapped-thought": "made to answer after its thought about another picture",
    "counterfactual": "its own picture with the lesion moved or taken away (phantom only)",
}
