"""Networks of words: transformers by hand, memories, experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from studies.subjects import Style

WIDTH, WORDS = 8, 30


def words(batch: int, length: int) -> dict[str, Tensor]:
    """Sentences."""
    return {"idx": torch.randint(WORDS, (batch, length))}


@dataclass
class GPTConfig:
    """Numbers of nanoGPT."""

    block_size: int = 16
    vocab_size: int = WORDS
    n_layer: int = 4
    n_head: int = 2
    n_embd: int = WIDTH
    dropout: float = 0.1


class CausalSelfAttention(nn.Module):
    """With a buffer for the mask, cut to the length."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.n_head, self.n_embd, self.dropout = config.n_head, config.n_embd, config.dropout
        mask = torch.tril(torch.ones(config.block_size, config.block_size))
        self.register_buffer("bias", mask.view(1, 1, config.block_size, config.block_size))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = F.dropout(F.softmax(att, dim=-1), self.dropout, self.training) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = CausalSelfAttention(config)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Tied weights, an assertion on the length, a loss where targets are given."""

    def __init__(self, config: GPTConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or GPTConfig()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        device = idx.device
        _, t = idx.size()
        assert t <= self.config.block_size, f"Cannot forward sequence of length {t}"
        pos = torch.arange(0, t, dtype=torch.long, device=device)
        x = self.transformer.wte(idx) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is not None:
            logits = self.lm_head(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        else:
            logits, loss = self.lm_head(x[:, [-1], :]), None
        return logits, loss


class MemoryNetwork(nn.Module):
    """Hops over a memory of sentences, with tables that neighbours share."""

    def __init__(self, hops: int = 4) -> None:
        super().__init__()
        self.hops = hops
        for hop in range(hops + 1):
            table = nn.Embedding(WORDS, WIDTH, padding_idx=0)
            self.add_module(f"C_{hop}", table)

    def forward(self, story, idx):
        u = self.C_0(idx).sum(1)
        for hop in range(self.hops):
            m = getattr(self, f"C_{hop}")(story.view(story.size(0), -1))
            m = m.view(*story.size(), m.size(-1)).sum(2)
            prob = F.softmax((m * u.unsqueeze(1).expand_as(m)).sum(2), dim=-1)
            c = getattr(self, f"C_{hop + 1}")(story.view(story.size(0), -1))
            c = c.view(*story.size(), c.size(-1)).sum(2)
            u = u + (c * prob.unsqueeze(2)).sum(1)
        return u @ getattr(self, f"C_{self.hops}").weight.transpose(0, 1)


class TransformerXL(nn.Module):
    """Each layer attends to what it gave for the segment before, too, which comes out again."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.depth = nn.Embedding(WORDS, WIDTH), depth
        self.qs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.kvs = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(depth))

    def forward(self, idx, mems: list[Tensor] | None = None):
        x = self.embed(idx)
        if mems is None:
            mems = [x.new_zeros(x.size(0), 3, x.size(2)) for _ in range(self.depth)]
        new = []
        for mem, q, kv in zip(mems, self.qs, self.kvs):
            new.append(torch.cat([mem, x], 1)[:, -3:].detach())
            k, v = kv(torch.cat([mem, x], dim=1)).chunk(2, -1)
            qlen, klen = x.size(1), k.size(1)
            mask = torch.triu(x.new_ones(qlen, klen), diagonal=1 + klen - qlen).bool()
            score = torch.einsum("bid,bjd->bij", q(x), k) / math.sqrt(WIDTH)
            x = x + score.masked_fill(mask, -1e30).softmax(-1) @ v
        return x, new


class Translator(nn.Module):
    """Masks for padding and for the future, made of the words."""

    def __init__(self) -> None:
        super().__init__()
        self.src_embed, self.tgt_embed = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.transformer = nn.Transformer(WIDTH, 2, 2, 2, 16, 0.1, batch_first=True)
        self.generator = nn.Linear(WIDTH, WORDS)
        self.register_buffer("pe", torch.randn(1, 20, WIDTH) * 0.1)

    def forward(self, idx, target):
        pad = idx == 0
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1))
        x = self.src_embed(idx) * math.sqrt(WIDTH) + self.pe[:, : idx.size(1)]
        y = self.tgt_embed(target) * math.sqrt(WIDTH) + self.pe[:, : target.size(1)]
        y = self.transformer(
            *(x, y),
            tgt_mask=mask.to(x.dtype),
            src_key_padding_mask=pad,
            memory_key_padding_mask=pad,
        )
        return self.generator(y)


class TextCNN(nn.Module):
    """Convolutions of several widths side by side, pooled over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.convs = nn.ModuleList([nn.Conv2d(1, 5, (k, WIDTH)) for k in (2, 3, 4)])
        self.dropout, self.fc1 = nn.Dropout(0.2), nn.Linear(15, 3)
        self.deep = nn.ModuleList(nn.Linear(15, 15) for _ in range(4))

    def forward(self, idx):
        x = self.embed(idx).unsqueeze(1)
        x = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        x = torch.cat([F.max_pool1d(i, i.size(2)).squeeze(2) for i in x], 1)
        for layer in self.deep:
            x = self.dropout(F.relu(layer(x)))
        return self.fc1(x)


class Rotary(nn.Module):
    """A small Llama: angles as complex numbers, and root-mean-square norms."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.tok = nn.Embedding(WORDS, WIDTH)
        self.wqkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(depth))
        self.ffs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(depth))
        freqs = torch.outer(torch.arange(32.0), 1.0 / 10.0 ** torch.arange(0, 1, 0.25))
        self.freqs_cis = torch.polar(torch.ones_like(freqs), freqs)

    def rotate(self, x, freqs):
        x_ = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(x_ * freqs).flatten(-2).type_as(x)

    def forward(self, idx):
        _, seqlen = idx.shape
        h = self.tok(idx)
        freqs = self.freqs_cis[:seqlen].to(h.device)
        mask = None
        if seqlen > 1:
            mask = torch.full((seqlen, seqlen), float("-inf"), device=idx.device)
            mask = torch.triu(mask, diagonal=1).type_as(h)
        for norm, qkv, ff in zip(self.norms, self.wqkv, self.ffs):
            q, k, v = qkv(norm(h)).chunk(3, -1)
            q, k = self.rotate(q, freqs), self.rotate(k, freqs)
            scores = q @ k.transpose(1, 2) / math.sqrt(WIDTH)
            if mask is not None:
                scores = scores + mask
            h = h + F.softmax(scores.float(), dim=-1).type_as(q) @ v
            h = h + F.silu(ff(h))
        return h


def stories(batch: int, length: int) -> dict[str, Tensor]:
    """Stories of sentences, and questions."""
    return {"story": torch.randint(WORDS, (batch, 4, length)), **words(batch, 3)}


def translations(batch: int, length: int) -> dict[str, Tensor]:
    """Sentences in two languages."""
    return {"idx": torch.randint(1, WORDS, (batch, length)), "target": words(batch, 5)["idx"]}


STYLES = {
    "nanoGPT": Style(NanoGPT, words, 7, 9),
    "memory network": Style(MemoryNetwork, stories, 5, 6),
    "Transformer-XL": Style(TransformerXL, words, 5, 7),
    "translator, masks": Style(Translator, translations, 6, 8),
    "TextCNN": Style(TextCNN, words, 8, 10),
    "rotary, complex angles": Style(Rotary, words, 6, 8),
}
