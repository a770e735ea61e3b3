"""Prometheus' text format, a model at a time.

`prometheus_client.generate_latest` writes the same text in one piece. For 1,000 models that takes
up to 0.7 s, in which no token would go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client import Counter, Histogram
from prometheus_client.utils import floatToGoString

Kind = TypeVar("Kind", Counter, Histogram)

AT_ONCE = 100
"""Lines of a piece."""


class Family(Generic[Kind]):
    """A metric with its children by their labels: looked up once, because each request needs
    some. ``names``: of the labels."""

    def __init__(self, metric: Kind, names: Sequence[str]) -> None:
        self._metric: Kind = metric
        self._names = tuple(names)
        self._children: dict[tuple[str, ...], tuple[Kind, tuple[str, ...]]] = {}

    def __call__(self, *labels: str) -> Kind:
        """The child with these labels."""
        found = self._children.get(labels)
        if found is None:
            texts = tuple(map(_label, self._names, labels))
            found = self._children[labels] = self._metric.labels(*labels), texts
        return found[0]

    def pieces(self) -> Iterator[str]:
        """The text of the metric. Children that come meanwhile may be missing."""
        (about,) = self._metric.describe()
        name = f"{about.name}_total" if about.type == "counter" else about.name
        yield header(name, about.documentation, about.type)
        created: list[str] = []
        for child, labels in list(self._children.values()):
            lines = _lines_of(child, labels)
            created += [text for name, text in lines if name.endswith("_created")]
            yield "".join(text for name, text in lines if not name.endswith("_created"))
        if created:
            yield header(f"{about.name}_created", about.documentation, "gauge")
        for begin in range(0, len(created), AT_ONCE):
            yield "".join(created[begin : begin + AT_ONCE])


def _lines_of(child: Counter | Histogram, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each sample's name and line."""
    found = []
    for metric in child.collect():
        for sample in metric.samples:
            all_labels = sorted([*labels, *(_label(*label) for label in sample.labels.items())])
            found.append((sample.name, line(sample.name, ",".join(all_labels), sample.value)))
    return found


def gauge(
    name: str, documentation: str, samples: Iterable[tuple[Sequence[tuple[str, str]], float]]
) -> Iterator[str]:
    """A gauge's text; each sample is its labels in the order of their names, and its value."""
    yield header(name, documentation, "gauge")
    for labels, value in samples:
        yield line(name, ",".join(_label(*label) for label in labels), value)


def header(name: str, documentation: str, kind: str) -> str:
    """What stands above the samples."""
    text = documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def line(name: str, labels: str, value: float) -> str:
    """A sample."""
    return f"{name}{{{labels}}} {_number(value)}\n"


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'
