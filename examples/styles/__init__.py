"""Small networks as people write them, one habit each, with the inputs of a call."""

from __future__ import annotations

from collections.abc import Mapping

from studies.subjects import Style
from styles import graphs, images, layers, science, sentences, sequences, vision

#: All of them, by name.
STYLES: Mapping[str, Style] = {
    **images.STYLES,
    **vision.STYLES,
    **sequences.STYLES,
    **sentences.STYLES,
    **layers.STYLES,
    **graphs.STYLES,
    **science.STYLES,
}
