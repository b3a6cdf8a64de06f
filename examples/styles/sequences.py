"""Networks of sequences: recurrences, scans and convolutions in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from studies.subjects import Style

WIDTH = 6


def series(batch: int, length: int) -> dict[str, Tensor]:
    """Series of six numbers a time."""
    return {"x": torch.randn(batch, length, WIDTH)}


class Packed(nn.Module):
    """Packs its sequences by their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, WIDTH))
        self.lstm = nn.LSTM(WIDTH, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))

    def forward(self, x, lengths):
        x = self.embed(x)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (h_n, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        return self.fc(torch.cat((h_n[-2], h_n[-1]), dim=1)), out.sum(1)


class Cells(nn.Module):
    """LSTM cells called for every time, with states that begin as zeros."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.hidden = hidden
        self.first, self.second = nn.LSTMCell(WIDTH, hidden), nn.LSTMCell(hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        h = torch.zeros(x.size(0), self.hidden, dtype=x.dtype)
        c = torch.zeros(x.size(0), self.hidden, dtype=x.dtype)
        h2 = torch.zeros(x.size(0), self.hidden, dtype=x.dtype)
        c2 = torch.zeros(x.size(0), self.hidden, dtype=x.dtype)
        outputs = []
        for x_t in x.split(1, dim=1):
            h, c = self.first(x_t.squeeze(1), (h, c))
            h2, c2 = self.second(h, (h2, c2))
            outputs.append(self.out(h2))
        return torch.cat(outputs, dim=1)


class Elman(nn.Module):
    """Written by hand: one step a time, its state of the batch's size."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.hidden_size = hidden
        self.i2h, self.h2h = nn.Linear(WIDTH, hidden), nn.Linear(hidden, hidden)
        self.h2o = nn.Linear(hidden, 3)

    def init_hidden(self, batch, like):
        return torch.zeros(batch, self.hidden_size).to(like)

    def forward(self, x):
        hidden = self.init_hidden(x.size(0), x)
        for t in range(x.size(1)):
            hidden = torch.tanh(self.i2h(x[:, t]) + self.h2h(hidden))
        return F.log_softmax(self.h2o(hidden), dim=1)


class MinGRU(nn.Module):
    """A gate of the input alone, so that time is a scan of logarithms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim, dim * 2, bias=False)

    def forward(self, x):
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        log_coeffs = -F.softplus(gate)
        log_values = -F.softplus(-gate) + torch.where(
            hidden >= 0, (F.relu(hidden) + 0.5).log(), -F.softplus(-hidden)
        )
        a_star = log_coeffs.cumsum(dim=1)
        return (a_star + (log_values - a_star).logcumsumexp(dim=1)).exp()


class MinGRUs(nn.Module):
    """Layers of norm, recurrence and feed-forward in lists of lists."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList([])
        for _ in range(depth):
            feed = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))
            norms = (nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH))
            self.layers.append(nn.ModuleList([norms[0], MinGRU(WIDTH), norms[1], feed]))

    def forward(self, x):
        for norm, rnn, ff_norm, ff in self.layers:
            x = rnn(norm(x)) + x
            x = ff(ff_norm(x)) + x
        return x


class Chomp(nn.Module):
    """Cuts off what the padding has added."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    """Two causal convolutions with weight norms."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        pad = 2 * dilation
        norm = nn.utils.parametrizations.weight_norm
        self.conv1 = norm(nn.Conv1d(inputs, outputs, 3, padding=pad, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(outputs, outputs, 3, padding=pad, dilation=dilation))
        self.net = nn.Sequential(
            *(self.conv1, Chomp(pad), nn.ReLU(), nn.Dropout(0.2)),
            *(self.conv2, Chomp(pad), nn.ReLU(), nn.Dropout(0.2)),
        )
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        out = self.net(x)
        res = x if self.downsample is None else self.downsample(x)
        return F.relu(out + res)


class TCN(nn.Module):
    """Dilations that double."""

    def __init__(self) -> None:
        super().__init__()
        widths = [WIDTH, 8, 8, 8, 8]
        self.network = nn.Sequential(
            *(TemporalBlock(widths[i], widths[i + 1], 2**i) for i in range(4))
        )
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(self.network(x.transpose(1, 2))[:, :, -1])


class WaveNet(nn.Module):
    """Skips of all layers are summed, cut to the last one's length."""

    def __init__(self, depth: int = 5, width: int = 6) -> None:
        super().__init__()
        self.dilations = [2 ** (i % 3) for i in range(depth)]
        self.filters, self.gates, self.res, self.skips = (nn.ModuleList() for _ in range(4))
        for d in self.dilations:
            self.filters.append(nn.Conv1d(width, width, 2, dilation=d))
            self.gates.append(nn.Conv1d(width, width, 2, dilation=d))
            self.res.append(nn.Conv1d(width, width, 1))
            self.skips.append(nn.Conv1d(width, width, 1))
        self.end = nn.Conv1d(width, 4, 1)

    def forward(self, x):
        x, skip = x.transpose(1, 2), 0
        for i in range(len(self.dilations)):
            residual = x
            x = torch.tanh(self.filters[i](x)) * torch.sigmoid(self.gates[i](x))
            s = self.skips[i](x)
            try:
                skip = skip[:, :, -s.size(2) :]
            except TypeError:
                skip = 0
            skip = s + skip
            x = self.res[i](x) + residual[:, :, -x.size(2) :]
        return self.end(F.relu(skip))


class CTC(nn.Module):
    """Convolutions, a recurrence in two directions, and the loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(WIDTH, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.rnn = nn.GRU(8, 5, num_layers=2, bidirectional=True)
        self.head = nn.Linear(10, 7)

    def forward(self, x, targets):
        x = self.conv(x.permute(0, 2, 1)).permute(2, 0, 1)
        out, _ = self.rnn(x)
        log_probs = self.head(out).log_softmax(2)
        n, t = log_probs.size(1), log_probs.size(0)
        lengths = torch.full((n,), t, dtype=torch.long)
        wanted = torch.full((n,), targets.size(1), dtype=torch.long)
        return F.ctc_loss(log_probs, targets, lengths, wanted, zero_infinity=True), log_probs


class SelectiveScan(nn.Module):
    """A state space whose steps depend on the input, one after another."""

    def __init__(self, dim: int, state: int = 3) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=2, groups=dim)
        self.x_proj, self.dt = nn.Linear(dim, 2 * state + 1), nn.Linear(1, dim)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).repeat(dim, 1).log())
        self.D, self.out = nn.Parameter(torch.ones(dim)), nn.Linear(dim, dim)
        self.state = state

    def forward(self, x):
        b, length, d = x.shape
        y, z = self.inner(self.norm(x)).chunk(2, dim=-1)
        y = F.silu(self.conv(y.transpose(1, 2))[..., :length].transpose(1, 2))
        delta, B, C = self.x_proj(y).split([1, self.state, self.state], dim=-1)
        delta, A = F.softplus(self.dt(delta)), -torch.exp(self.A_log)
        h, ys = torch.zeros(b, d, self.state, dtype=x.dtype, device=x.device), []
        for i in range(length):
            decay = torch.exp(delta[:, i, :, None] * A)
            h = decay * h + delta[:, i, :, None] * B[:, i, None] * y[:, i, :, None]
            ys.append((h * C[:, i, None]).sum(-1))
        return x + self.out((torch.stack(ys, dim=1) + y * self.D) * F.silu(z))


def mamba() -> nn.Module:
    """Four selective scans."""
    return nn.Sequential(*(SelectiveScan(WIDTH) for _ in range(4)), nn.LayerNorm(WIDTH))


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that attends and feeds itself what it said."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.encoder = nn.GRU(WIDTH, hidden, batch_first=True)
        self.cell, self.attn = nn.GRUCell(WIDTH + hidden, hidden), nn.Linear(2 * hidden, 1)
        self.out = nn.Linear(hidden, WIDTH)

    def forward(self, x, steps: int = 5):
        outputs, hidden = self.encoder(x)
        hidden, said = hidden[-1], x.new_zeros(x.size(0), WIDTH)
        results = torch.zeros(x.size(0), steps, WIDTH, dtype=x.dtype)
        for t in range(steps):
            query = hidden.unsqueeze(1).expand(-1, outputs.size(1), -1)
            weights = F.softmax(self.attn(torch.cat([outputs, query], -1)).squeeze(-1), dim=1)
            context = torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)
            hidden = self.cell(torch.cat([said, context], dim=1), hidden)
            said = self.out(hidden)
            results[:, t] = said
        return results


def packable(batch: int, length: int) -> dict[str, Tensor]:
    """Series, and how long each is."""
    lengths = torch.randint(2, length + 1, (batch,))
    lengths[0] = length
    return {**series(batch, length), "lengths": lengths}


def spoken(batch: int, length: int) -> dict[str, Tensor]:
    """Series, and what is said in them."""
    return {**series(batch, length), "targets": torch.randint(1, 7, (batch, 2))}


STYLES = {
    "packed LSTM": Style(Packed, packable, 7, 9),
    "LSTM cells, states of zeros": Style(Cells, series, 5, 7),
    "RNN by hand, state from sizes": Style(Elman, series, 6, 8),
    "minGRU, lists of lists": Style(MinGRUs, series, 7, 9),
    "TCN, weight norm": Style(TCN, series, 12, 15),
    "WaveNet, summed skips": Style(WaveNet, series, 16, 20),
    "CTC, loss inside": Style(CTC, spoken, 9, 12),
    "selective scan": Style(mamba, series, 5, 7),
    "sequence to sequence, cells": Style(Seq2Seq, series, 5, 7),
}
