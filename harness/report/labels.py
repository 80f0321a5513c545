"""Names beside points, at the first position where they cover nothing. If a name fits nowhere, no names are shown."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_POSITIONS = (  # the height of a name, then its offset to the right and upwards in points
    ("y", 8, 0), ("y", -8, 0), ("hi", 0, 7), ("lo", 0, -7), ("y", 6, 8), ("y", 6, -8), ("y", -6, 8), ("y", -6, -8),
    ("hi", 5, 4), ("hi", -5, 4), ("lo", 5, -4), ("lo", -5, -4),
)  # fmt: skip
_MARK = 5  # half the side of a mark with its margin, in pixels


class LabelPoint(NamedTuple):
    """A point of a plot, in data coordinates, and the name to write beside it."""

    name: str
    x: float
    y: float
    lo: float  # lower end of the interval of y
    hi: float


def place(figure: Figure, panels: Sequence[tuple[Axes, Sequence[LabelPoint]]]) -> bool:
    """Write all names and return True; if they do not all fit, write none and return False."""
    figure.draw_without_rendering()  # settles the layout in which the boxes are measured
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
    """The areas that a point covers: its mark and its interval."""
    x, y = axes.transData.transform((point.x, point.y))
    yield Bbox.from_extents(x - _MARK, y - _MARK, x + _MARK, y + _MARK)
    _, lo = axes.transData.transform((point.x, point.lo))
    _, hi = axes.transData.transform((point.x, point.hi))
    yield Bbox.from_extents(x - _MARK, lo, x + _MARK, hi)


def _write(axes: Axes, point: LabelPoint, taken: Sequence[Bbox]) -> Annotation | None:
    heights = {"y": point.y, "lo": point.lo, "hi": point.hi}
    for anchor, right, up in _POSITIONS:
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
        if inside and not any(box.overlaps(covered) for covered in taken):
            return label
        label.remove()
    return None
