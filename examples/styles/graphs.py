"""Networks of graphs and sets."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from studies.subjects import Style

WIDTH = 6


def graph(batch: int, nodes: int) -> dict[str, Tensor]:
    """Nodes, and edges between them; ``batch`` graphs beside each other."""
    count = batch * nodes
    return {"x": torch.randn(count, WIDTH), "edge_index": torch.randint(count, (2, 3 * count))}


class GraphConvolution(nn.Module):
    """Adds messages into fresh zeros, in place, by degrees."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, edge_index):
        row, col = edge_index
        deg = torch.zeros(x.size(0), dtype=x.dtype, device=x.device)
        deg.index_add_(0, col, torch.ones_like(col, dtype=x.dtype))
        norm = deg.clamp(min=1).rsqrt()
        out = torch.zeros_like(x)
        out.index_add_(0, col, self.lin(x)[row] * (norm[row] * norm[col]).unsqueeze(-1))
        return out


class GCN(nn.Module):
    """Six of them with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GraphConvolution() for _ in range(6))

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = x + F.dropout(F.relu(conv(x, edge_index)), 0.1, self.training)
        return F.log_softmax(x, dim=1)


class GraphAttention(nn.Module):
    """Dense attention with an adjacency matrix of the edges, two heads in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, WIDTH // 2) for _ in range(2))
        self.a = nn.ParameterList(nn.Parameter(torch.randn(WIDTH, 1)) for _ in range(2))

    def forward(self, x, adj):
        outputs = []
        for head, a in zip(self.heads, self.a):
            h = head(x)
            e = F.leaky_relu(h @ a[: WIDTH // 2] + (h @ a[WIDTH // 2 :]).T, 0.2)
            attention = F.softmax(torch.where(adj > 0, e, -9e15 * torch.ones_like(e)), dim=1)
            outputs.append(F.elu(attention @ h))
        return torch.cat(outputs, dim=1)


class GAT(nn.Module):
    """The adjacency is made once and read by every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions = [GraphAttention() for _ in range(5)]
        for i, attention in enumerate(self.attentions):
            self.add_module(f"attention_{i}", attention)

    def forward(self, x, edge_index):
        n = x.shape[0]
        adj = torch.eye(n, device=x.device)
        adj[edge_index[0], edge_index[1]] = 1.0
        for attention in self.attentions:
            x = x + attention(x, adj)
        return x


class GIN(nn.Module):
    """Sums by scatter, pooled over each layer's nodes."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, WIDTH))
            for _ in range(depth)
        )
        self.eps = nn.Parameter(torch.zeros(depth))
        self.readouts = nn.ModuleList(nn.Linear(WIDTH, 3) for _ in range(depth))

    def forward(self, x, edge_index):
        score_over_layer = 0
        for layer in range(len(self.mlps)):
            index = edge_index[1].unsqueeze(-1).expand(-1, x.size(-1))
            pooled = torch.zeros_like(x).scatter_add_(0, index, x[edge_index[0]])
            x = F.relu(self.mlps[layer](pooled + (1 + self.eps[layer]) * x))
            score_over_layer += self.readouts[layer](x.sum(0, keepdim=True))
        return score_over_layer


class DeepSets(nn.Module):
    """Equivariant layers that take away the mean, then a sum."""

    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.gammas = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.lambdas = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth))
        self.rho = nn.Sequential(nn.Linear(WIDTH, 8), nn.ELU(), nn.Linear(8, 2))

    def forward(self, x, mask):
        for gamma, lam in zip(self.gammas, self.lambdas):
            mean = (x * mask[..., None]).sum(1, keepdim=True) / mask.sum(1).clamp_min(1)[
                :, None, None
            ]
            x = F.elu(gamma(x) - lam(mean))
        x[mask == 0] = 0.0
        return self.rho(x.sum(1))


class PointNet(nn.Module):
    """A transform of the points is found, and put before the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stn = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU())
        self.fc = nn.Linear(8, 9)
        self.convs = nn.ModuleList(nn.Conv1d(3 if i == 0 else 8, 8, 1) for i in range(5))
        self.bns = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(5))

    def forward(self, x):
        x = x.transpose(2, 1)
        batchsize = x.size()[0]
        t = torch.max(self.stn(x), 2, keepdim=True)[0].view(-1, 8)
        iden = torch.eye(3, dtype=x.dtype).flatten().view(1, 9).repeat(batchsize, 1)
        t = (self.fc(t) + iden).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), t).transpose(2, 1)
        for conv, bn in zip(self.convs, self.bns):
            x = F.relu(bn(conv(x)))
        return torch.max(x, 2)[0], t


def sets(batch: int, items: int) -> dict[str, Tensor]:
    """Sets, some of whose items are not there."""
    return {"x": torch.randn(batch, items, WIDTH), "mask": (torch.rand(batch, items) > 0.3).float()}


def points(batch: int, count: int) -> dict[str, Tensor]:
    """Clouds of points."""
    return {"x": torch.randn(batch, count, 3)}


STYLES = {
    "GCN, index_add_ on zeros": Style(GCN, graph, 4, 6),
    "graph attention, dense": Style(GAT, graph, 4, 6),
    "GIN, scatter_add_, readouts": Style(GIN, graph, 4, 6),
    "deep sets, masks": Style(DeepSets, sets, 5, 7),
    "PointNet": Style(PointNet, points, 9, 12),
}
