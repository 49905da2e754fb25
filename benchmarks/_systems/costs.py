"""What a GRPO step needs of a machine, counted from a Qwen2-VL's dimensions: arithmetic, bytes, memory. Standard library only.

Counted is what the result needs, whatever a system does for it: each image once a pass, each prompt once however many
completions continue it, the head on completion tokens only. A matrix of n weights costs 2 n floating-point operations a
token; attention 4 x width for each pair of a token and one that it sees; a backward pass twice its forward pass. Norms,
activations, softmax and the optimiser's arithmetic are left out: together below one percent.

Legend: P prompts of a step, G completions of each, L prompt tokens (image tokens included), C completion tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dimensions:
    """A Qwen2-VL's sizes. The defaults are Qwen2-VL-2B's, whose embedding is its head too.

    >>> Dimensions().parameters
    2208985600
    """

    layers: int = 28
    hidden: int = 1536
    heads: int = 12
    kv_heads: int = 2
    mlp: int = 8960
    vocabulary: int = 151936
    vision_layers: int = 32
    vision_width: int = 1280
    vision_heads: int = 16
    vision_mlp_ratio: int = 4
    patch: int = 14
    temporal: int = 2
    merge: int = 2

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_weights(self) -> int:
        """Of one decoder layer's matrices: queries and output, keys and values, the MLP's three.

        >>> Dimensions().layer_weights == 2 * 1536**2 + 2 * 1536 * 256 + 3 * 1536 * 8960 == 46_792_704
        True
        """
        return 2 * self.hidden**2 + 2 * self.hidden * self.kv_width + 3 * self.hidden * self.mlp

    @property
    def head_weights(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def patch_weights(self) -> int:
        return 3 * self.temporal * self.patch**2 * self.vision_width

    @property
    def block_weights(self) -> int:
        """Of one vision block's matrices.

        >>> Dimensions().block_weights == 4 * 1280**2 + 2 * 1280 * 5120 == 19_660_800
        True
        """
        return (4 + 2 * self.vision_mlp_ratio) * self.vision_width**2

    @property
    def merger_weights(self) -> int:
        """Of the two matrices that turn merge x merge patches into one token."""
        wide = self.vision_width * self.merge**2
        return wide**2 + wide * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, biases and norms included."""
        wide, width = self.vision_width * self.merge**2, self.vision_width
        layer = self.layer_weights + self.hidden + 2 * self.kv_width + 2 * self.hidden
        block = self.block_weights + (3 + 1 + self.vision_mlp_ratio + 1) * width + 4 * width
        merger = self.merger_weights + 2 * width + wide + self.hidden
        return self.layers * layer + self.hidden + self.head_weights + self.vision_layers * block + self.patch_weights + merger


@dataclass(frozen=True)
class Step:
    """One step of GRPO on questions with one image each.

    >>> Step(prompts=4, group=4, prompt_tokens=376, completion=150, image_tokens=256).lm_tokens
    3888
    """

    prompts: int
    group: int
    prompt_tokens: int
    completion: int
    image_tokens: int

    @property
    def lm_tokens(self) -> int:
        """Tokens of a pass: prompts once; a completion's last token predicts nothing."""
        return self.prompts * (self.prompt_tokens + self.group * (self.completion - 1))


# ---------------------------------------------------------------- arithmetic


def image_flops(d: Dimensions, image_tokens: int) -> int:
    """The vision tower forward on one image; every patch sees every other.

    | 256 image tokens = 1,024 patches        | GFLOP   |
    |-----------------------------------------|---------|
    | patches 2 x 1,505,280 x 1,024           |     3.1 |
    | 32 blocks x 2 x 19,660,800 x 1,024      | 1,288.5 |
    | 32 blocks x 4 x 1,280 x 1,024 x 1,024   |   171.8 |
    | merger 2 x 34,078,720 x 256             |    17.4 |

    >>> round(image_flops(Dimensions(), 256) / 1e9, 1)
    1480.8
    """
    patches = image_tokens * d.merge**2
    dense = 2 * (d.patch_weights + d.vision_layers * d.block_weights) * patches
    return dense + d.vision_layers * 4 * d.vision_width * patches**2 + 2 * d.merger_weights * image_tokens


def prompt_flops(d: Dimensions, tokens: int) -> int:
    """The decoder layers forward on one prompt; token number n sees n tokens.

    | 376 tokens                              | GFLOP |
    |-----------------------------------------|-------|
    | 28 layers x 2 x 46,792,704 x 376        | 985.3 |
    | 28 layers x 4 x 1,536 x 376 x 377 / 2   |  12.2 |

    >>> round(prompt_flops(Dimensions(), 376) / 1e9, 1)
    997.5
    """
    return d.layers * (2 * d.layer_weights * tokens + 4 * d.hidden * tokens * (tokens + 1) // 2)


def completion_flops(d: Dimensions, prompt_tokens: int, tokens: int) -> int:
    """Layers and head forward on one completion; its first token is predicted by the prompt.

    | 150 tokens after 376                             | GFLOP |
    |--------------------------------------------------|-------|
    | 28 layers x 2 x 46,792,704 x 149                 | 390.4 |
    | 28 layers x 4 x 1,536 x (149 x 376 + 149 x 75)   |  11.6 |
    | head 2 x 233,373,696 x 150                       |  70.0 |

    >>> round(completion_flops(Dimensions(), 376, 150) / 1e9, 1)
    472.0
    """
    run = tokens - 1
    pairs = run * prompt_tokens + run * (run + 1) // 2
    return d.layers * (2 * d.layer_weights * run + 4 * d.hidden * pairs) + 2 * d.head_weights * tokens


def step_flops(d: Dimensions, s: Step, fresh_images: float = 1.0) -> dict[str, float]:
    """By phase: rollout and reference are a forward pass each, the update a forward and a backward pass.

    The images need one forward pass for rollout and update together; it is counted in the rollout.
    ``fresh_images``: the share of images that the frozen reference has not met before; it need not encode the others again.

    >>> {k: round(v / 1e12, 2) for k, v in step_flops(Dimensions(), Step(4, 4, 376, 150, 256)).items()}
    {'rollout': 17.47, 'reference': 17.47, 'update': 46.47}
    """
    language = s.prompts * (prompt_flops(d, s.prompt_tokens) + s.group * completion_flops(d, s.prompt_tokens, s.completion))
    images = s.prompts * image_flops(d, s.image_tokens)
    return {"rollout": language + images, "reference": language + fresh_images * images, "update": 3 * language + 2 * images}


def mfu(flops: float, seconds: float, peak_flops: float) -> float:
    """Model FLOPs utilisation: the needed arithmetic over what the device could have done meanwhile.

    >>> mfu(50e12, 0.25, 800e12)
    0.25
    """
    return flops / seconds / peak_flops


# ---------------------------------------------------------------- bytes


def decode_bytes(d: Dimensions, s: Step, item: int = 2) -> int:
    """Read to decode a step's completions together: per token once all weights, each prompt's keys and values, and each completion's own.

    | 4 prompts of 376 tokens, G = 4, 150 tokens, bf16                   | GB    |
    |--------------------------------------------------------------------|-------|
    | 149 x 2 bytes x (28 x 46,792,704 + 233,373,696)                    | 459.98 |
    | 149 x 28,672 bytes a token x 4 x 376                               |   6.43 |
    | 28,672 bytes a token x 16 x (1 + ... + 149)                        |   5.13 |

    >>> round(decode_bytes(Dimensions(), Step(4, 4, 376, 150, 256)) / 1e9, 2)
    471.54
    """
    run = s.completion - 1
    weights = item * (d.layers * d.layer_weights + d.head_weights)
    token = item * 2 * d.kv_width * d.layers
    return run * (weights + token * s.prompts * s.prompt_tokens) + token * s.prompts * s.group * run * (run + 1) // 2


OPTIMIZER_BYTES = 2 + 3 * 8 + 2  # a parameter: gradient read; master and both moments read and written; weight written


def floor_seconds(d: Dimensions, s: Step, flops_s: float, bytes_s: float, fresh_images: float = 1.0, item: int = 2) -> dict[str, float]:
    """The least time of a step's phases on a device that computes ``flops_s`` and moves ``bytes_s``, both without a gap.

    Decoding is bound by bytes or by arithmetic, whichever takes longer; the update's optimiser by bytes.

    >>> floor = floor_seconds(Dimensions(), Step(4, 4, 376, 150, 256), flops_s=800e12, bytes_s=3e12)
    >>> {phase: round(seconds, 3) for phase, seconds in floor.items()}
    {'prefill': 0.012, 'decode': 0.157, 'reference': 0.022, 'update': 0.079}
    """
    flops = step_flops(d, s, fresh_images)
    prefill = s.prompts * (image_flops(d, s.image_tokens) + prompt_flops(d, s.prompt_tokens))
    return {
        "prefill": prefill / flops_s,
        "decode": max((flops["rollout"] - prefill) / flops_s, decode_bytes(d, s, item) / bytes_s),
        "reference": flops["reference"] / flops_s,
        "update": flops["update"] / flops_s + OPTIMIZER_BYTES * d.parameters / bytes_s,
    }


# ---------------------------------------------------------------- memory


def memory_gib(d: Dimensions, reference: bool = True) -> dict[str, float]:
    """What bf16 training with float32 masters holds, before activations; the last comes on top during the optimiser's step only.

    >>> plan = memory_gib(Dimensions())
    >>> plan
    {'weights': 4.1, 'gradients': 4.1, 'masters': 8.2, 'moments': 16.5, 'reference': 4.1, 'float32 gradients': 8.2}
    >>> round(sum(plan.values()), 1)
    45.2
    """
    bytes_each = {"weights": 2, "gradients": 2, "masters": 4, "moments": 8, "reference": 2 * reference, "float32 gradients": 4}
    return {name: round(count * d.parameters / 2**30, 1) for name, count in bytes_each.items()}
