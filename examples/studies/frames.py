"""Frames: videos as folders of images, cut or filled up to one length."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pararealize.cli.images import SUFFIXES
from pararealize.errors import DataError
from studies.pictures import picture

Part = tuple[Tensor, Tensor]

#: Frames of a video: longer ones are cut, shorter ones end in black.
LENGTH = 128
#: Pixels of a frame's side.
SIDE = 64
#: One video in so many of a class is kept for testing.
EVERY = 5


def read_videos(folder: Path, limit: int | None) -> tuple[Part, Part]:
    """Videos ``[count, LENGTH, 3, SIDE, SIDE]`` between 0 and 1 of ``CLASS/VIDEO/FRAME``.

    Frames are in the order of their names; every fifth video of a class is kept for testing. Only
    as many videos as ``limit`` are opened.

    Raises:
        DataError: a class has too few videos, or a frame cannot be read.
        FileNotFoundError: there are no such folders.

    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    videos = [sorted(v for v in own.iterdir() if v.is_dir()) for own in classes]
    if not any(videos):
        raise FileNotFoundError("folders CLASS/VIDEO of frames")
    parts: tuple[list[tuple[Path, int]], ...] = ([], [])
    for label, own in enumerate(videos):
        if len(own) < EVERY:
            raise DataError(f"{classes[label]} has {len(own)} videos, and {EVERY} are needed.")
        for i, video in enumerate(own):
            parts[i % EVERY == EVERY - 1].append((video, label))
    train, test = (_part(part, limit) for part in parts)
    return train, test


def _part(videos: list[tuple[Path, int]], limit: int | None) -> Part:
    order = torch.randperm(len(videos), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [videos[i] for i in order[: limit or len(order)]]
    return torch.stack([_video(path) for path, _ in chosen]), torch.tensor([i for _, i in chosen])


def _video(folder: Path) -> Tensor:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no frames ({', '.join(SUFFIXES)}).")
    frames = torch.zeros(LENGTH, 3, SIDE, SIDE)
    for i, file in enumerate(files[:LENGTH]):
        frames[i] = picture(file, SIDE)
    return frames
