"""What is free goes back to the system."""

import sys

import pytest
import torch

from pararealize.emit.ranks import release


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to give memory back")
def test_holes_in_the_heap_are_given_back() -> None:
    small = [torch.zeros(20_000) for _ in range(2_000)]  # 80 kB each: below glibc's threshold
    keep = small[::50]
    before = resident()
    del small
    release()
    assert len(keep) == 40
    assert resident() < before - 20_000  # pages: half of the 160 MB and more
