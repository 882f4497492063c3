"""What a `.param` of ncnn says, read without ncnn."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Input's parameters: width, height, channels; 0 is open.
WIDTH, HEIGHT, CHANNELS = 0, 1, 2


def input_shapes(param: str) -> Mapping[str, tuple[int, ...]]:
    """(channels, height, width) of each input that the .param tells the size of, outermost first."""
    found: dict[str, tuple[int, ...]] = {}
    for line in param.splitlines():
        words = line.split()
        if len(words) < 5 or words[0] != "Input":
            continue
        sizes = {int(key): int(value) for key, value in re.findall(r"(\d+)=(\d+)", " ".join(words[5:]))}
        dims = [sizes[axis] for axis in (CHANNELS, HEIGHT, WIDTH) if sizes.get(axis)]
        if dims:
            found[words[4]] = tuple(dims)
    return found
