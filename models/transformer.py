"""Pre-norm transformer blocks.

Xiong et al., "On Layer Normalization in the Transformer Architecture" (arXiv:2002.04745).
"""

from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4
POSITIONS_STD = 0.02


class Attention(nn.Module):
    """Multi-head attention of arXiv:1706.03762, `softmax(q k^T / sqrt(d)) v` with `d = w / heads`.

    A `causal` one lets a position see itself and those before it.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"a width of {width} does not split into {heads} heads")
        self.heads = heads
        self.causal = causal
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, positions, width]` to the same shape."""
        query, key, value = self.inputs(x).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), is_causal=self.causal
        )
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        """Map `[batch, positions, width]` to `[batch, heads, positions, width / heads]`."""
        parts: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return parts


class TransformerBlock(nn.Module):
    """Pre-norm block of arXiv:2002.04745: `z = x + attention(ln1(x))`, `y = z + mlp(ln2(z))`."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, positions, width]` to the same shape."""
        z = x + self.attention(self.ln1(x))
        y: Tensor = z + self.mlp(self.ln2(z))
        return y


def blocks(depth: int, width: int, heads: int, *, causal: bool = False) -> nn.Sequential:
    """`depth` pre-norm blocks in a row."""
    if depth < 1:
        raise ValueError(f"a transformer has at least one block, not {depth}")
    return nn.Sequential(*(TransformerBlock(width, heads, causal=causal) for _ in range(depth)))
