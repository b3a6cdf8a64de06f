"""Models that have run before they are compiled, and hold what they have computed."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Caching(nn.Module):
    """Keeps what it has computed of its weights in eval mode, and drops it in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bias = nn.Linear(4, 4), nn.Parameter(torch.randn(4))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        """As some libraries write it, without an answer."""
        super().train(mode)
        if mode and self.cache:
            self.cache = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + torch.tanh(self.fc(x)) + self.bias.exp()
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias.exp()
        return x + torch.tanh(self.fc(x)) + self.cache["bias"]


class Attribute(nn.Module):
    """Keeps its last answer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.fc(x))
        self.last = y
        return x + y


class Inside(nn.Module):
    """Keeps its last answers in a list of an object."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.log = nn.Linear(4, 4), SimpleNamespace(answers=[])

    def forward(self, x: Tensor) -> Tensor:
        self.log.answers = [*self.log.answers[-1:], torch.tanh(self.fc(x))]
        return x + self.log.answers[-1]


def test_own_layers_are_made_anew_whatever_their_train_gives() -> None:
    layers = (nn.Conv2d(3, 4, 3), Pooling(), nn.Conv2d(4, 4, 3), Pooling(), nn.Conv2d(4, 4, 1))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5))
    net = pararealize(model, 3, example_inputs=(torch.randn(2, 3, 16, 16),), leaf_modules=[Pooling])
    assert net(torch.randn(2, 3, 16, 16)).isfinite().all()


class Pooling(nn.Module):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [Caching, Attribute, Inside])
def test_what_they_hold_is_copied_detached(
    kind: type[nn.Module], grad: bool, training: bool
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(*(kind() for _ in range(4))).double().eval(), torch.randn(3, 4)
    x = x.double()
    with torch.set_grad_enabled(grad):
        wanted = model(x)
    model.train(training)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert net.training is training
    assert torch.equal(net(x), model(x))
    assert torch.equal(net.eval()(x), wanted)
    net.train()(x).sum().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if n in model.state_dict())
