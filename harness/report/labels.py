"""Names beside points: each in the first of several places where it covers nothing, or none at all."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_PLACES = (  # what the name stands at, and how many points right of it and above it
    ("y", 8, 0), ("y", -8, 0), ("hi", 0, 7), ("lo", 0, -7), ("y", 6, 8), ("y", 6, -8), ("y", -6, 8), ("y", -6, -8),
    ("hi", 5, 4), ("hi", -5, 4), ("lo", 5, -4), ("lo", -5, -4),
)  # fmt: skip
_MARK = 5  # half the side of a mark and its margin, in pixels


class LabelPoint(NamedTuple):
    name: str
    x: float
    y: float
    lo: float  # of y
    hi: float


def place(figure: Figure, panels: Sequence[tuple[Axes, Sequence[LabelPoint]]]) -> bool:
    """Write the names; False, with nothing written, where they do not all fit."""
    figure.draw_without_rendering()  # settles the layout that the boxes are measured in
    written: list[Annotation] = []
    for axes, points in panels:
        taken = [box for point in points for box in _boxes(axes, point)]
        for point in points:
            label = _write(axes, point, taken)
            if label is None:
                for earlier in written:
                    earlier.remove()
                return False
            written.append(label)
            taken.append(label.get_window_extent())
    return True


def _boxes(axes: Axes, point: LabelPoint) -> Iterator[Bbox]:
    """What a point covers: its mark and its interval."""
    x, y = axes.transData.transform((point.x, point.y))
    yield Bbox.from_extents(x - _MARK, y - _MARK, x + _MARK, y + _MARK)
    _, lo = axes.transData.transform((point.x, point.lo))
    _, hi = axes.transData.transform((point.x, point.hi))
    yield Bbox.from_extents(x - _MARK, lo, x + _MARK, hi)


def _write(axes: Axes, point: LabelPoint, taken: Sequence[Bbox]) -> Annotation | None:
    heights = {"y": point.y, "lo": point.lo, "hi": point.hi}
    for anchor, right, up in _PLACES:
        label = axes.annotate(
            point.name,
            (point.x, heights[anchor]),
            xytext=(right, up),
            textcoords="offset points",
            ha="left" if right > 0 else "right" if right < 0 else "center",
            va="center",
            fontsize=8.5,
        )
        label.set_in_layout(False)
        box = label.get_window_extent()
        inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        if inside and not any(box.overlaps(other) for other in taken):
            return label
        label.remove()
    return None
