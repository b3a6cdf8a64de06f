"""Causal language models.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): pre-norm decoders.
"""

import torch
from torch import Tensor, nn

from .transformer import POSITIONS_STD, blocks


class CausalLM(nn.Module):
    """Decoder-only transformer that predicts the next token at every position.

    Learned embeddings of tokens and positions, `depth` pre-norm blocks whose attention is causal,
    a normalisation and a linear map to the vocabulary.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        depth: int = 12,
        width: int = 128,
        heads: int = 4,
        context: int = 64,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(POSITIONS_STD * torch.randn(context, width))
        self.blocks = blocks(depth, width, heads, causal=True)
        self.ln = nn.LayerNorm(width)
        self.fc = nn.Linear(width, vocabulary)
        # As small as the positions, or a block's branch would not count beside the embedding.
        nn.init.normal_(self.tokens.weight, std=POSITIONS_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 `[batch, positions]`, at most `context`, to `[batch, positions, vocabulary]`.

        The logits at a position depend on the tokens up to it and say which comes next.
        """
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        logits: Tensor = self.fc(self.ln(self.blocks(x)))
        return logits


def causal_lm(
    vocabulary: int, *, depth: int = 12, width: int = 128, heads: int = 4, context: int = 64
) -> CausalLM:
    """Decoder-only, pre-norm language model of `depth` causal blocks."""
    return CausalLM(vocabulary, depth=depth, width=width, heads=heads, context=context)
