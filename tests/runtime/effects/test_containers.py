"""Containers are looked into, and put back, without the methods that their classes add."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.runtime.effects.containers import Contents, contained


class Table(OrderedDict[str, Any]):
    """Entries are made when they are read, as tables of activations do it."""

    def __getitem__(self, key: str) -> Any:
        raise TypeError("this one takes arguments")


class Lookup(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise TypeError("this one takes arguments")

    def values(self) -> Any:
        raise TypeError("not all at once")

    def copy(self) -> Any:
        raise TypeError("there is one of it")


class Numbered(list[Any]):
    """Every reader gets objects of its own."""

    def __iter__(self) -> Iterator[Any]:
        return (SimpleNamespace(number=number) for number in super().__iter__())


class Recent(deque[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


OWN_METHODS: dict[str, Any] = {
    "table": Table(relu=torch.relu, sine=torch.sin),
    "lookup": Lookup(relu=torch.relu),
    "numbered": Numbered([1, 2]),
    "recent": Recent([1, 2, 3]),
}
PLAIN: dict[str, Any] = {
    "counts": defaultdict(int, a=1),
    "set": {1, 2},
    "bytes": bytearray(b"ab"),
    "record": SimpleNamespace(a=1),
}


class Reader(nn.Module):
    """Keeps a container, and reads one of the file as well."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        act = dict.get(OWN_METHODS["table"], "relu")
        assert act is not None
        y: Tensor = act(self.layers(x))
        return y


@pytest.mark.parametrize("name", OWN_METHODS)
def test_a_network_that_keeps_it_compiles(name: str) -> None:
    model, x = Reader(OWN_METHODS[name]), torch.randn(2, 4)
    net = pararealize(
        model, 2, method=Parareal(coarse="fine", correction="difference"), example_inputs=(x,)
    )
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize("name", [*OWN_METHODS, *PLAIN])
def test_what_was_written_is_seen_and_put_back(name: str) -> None:
    value = {**OWN_METHODS, **PLAIN}[name]
    module, before = Reader(value), contained(value)
    contents = Contents(module)
    assert not contents.changed()
    match value:
        case dict():
            value["new"] = 1
        case set():
            value.add(3)
        case SimpleNamespace():
            value.new = 1
        case _:
            type(value).append(value, 9)
    assert contents.changed()
    contents.restore()
    assert contained(value) == before
    assert not contents.changed()
