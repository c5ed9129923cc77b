"""Which stage is next: the order of a graph by the longest path that is left, in planned seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Schedule:
    """The stages of a run, from those that wait to those that ended.

    Attributes:
        remaining: planned seconds from the begin of a stage to the end of the run, on the longest path.
        failed: stages that failed; what stands on them is never ready.
    """

    def __init__(self, edges: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> None:
        """``edges``: every stage with those it stands on; a stage without planned ``seconds`` counts as one second."""
        self._after = {address: set(befores) & set(edges) for address, befores in edges.items()}
        self._waiting, self._running = list(edges), set[str]()
        self.failed: list[str] = []
        self.remaining: dict[str, float] = {}
        self.replan(seconds)

    def replan(self, seconds: Mapping[str, float]) -> None:
        """Takes other planned ``seconds``."""
        self.seconds = {address: seconds.get(address, 1.0) for address in self._after}
        follow: dict[str, list[str]] = {address: [] for address in self._after}
        for address, befores in self._after.items():
            for before in befores:
                follow[before].append(address)
        self.remaining, self._follow = {}, follow
        for address in self._after:
            self._measure(address)

    def _measure(self, address: str) -> float:
        if address not in self.remaining:
            rest = max((self._measure(other) for other in self._follow[address]), default=0.0)
            self.remaining[address] = self.seconds[address] + rest
        return self.remaining[address]

    def ready(self) -> list[str]:
        """The stages that can begin now, the longest path first; each is returned once."""
        found = [one for one in self._waiting if not self._after[one]]
        self._waiting = [one for one in self._waiting if self._after[one]]
        self._running.update(found)
        return sorted(found, key=lambda one: -self.remaining[one])

    def end(self, address: str, *, failed: bool = False) -> None:
        """Says that a stage ended."""
        self._running.discard(address)
        if failed:
            self.failed.append(address)
            return
        for other in self._follow[address]:
            self._after[other].discard(address)

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing can begin."""
        return not self._running and all(self._after[one] for one in self._waiting)

    @property
    def blocked(self) -> list[str]:
        """The stages that wait, in the end for ones that failed."""
        return list(self._waiting)

    def critical_path(self) -> list[str]:
        """The stages of the longest path from here to the end: no number of workers makes a run shorter."""
        path: list[str] = []
        rest = [one for one in self._waiting if not self._after[one]] or sorted(self._running)
        while rest:
            path.append(max(rest, key=lambda one: self.remaining[one]))
            rest = self._follow[path[-1]]
        return path
