"""`ims3 new`: from a folder of pictures to a profile that fits a time budget, with the reasons in ten lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ims3core.base import files
from ims3core.base.measurements import processor
from ims3core.errors import ParameterError
from ims3core.ingest.classes import imagenet
from ims3core.params import Params, flow
from ims3core.params.writer import wrap_flow
from ims3core.pipeline import profiles
from ims3core.planning import folder as pictures
from ims3core.planning import memory
from ims3core.planning.folder import Folder
from ims3core.planning.rungs import Ladder, Planned, Rung, rungs
from ims3core.planning.table import duration

FAMILY, PRETRAINED = "folder", "imagenet"
IPC = (1, 10)  # images per class where none are asked for
REAL_ROWS = ["random", "herding", "ims3_plus"]
GENERATED_ROWS = ["random", "herding", "dit", "ims3", "ims3_plus"]
UNITS = {"s": 1, "m": 60, "h": 3600}
WIDTH = 118
Tree = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """What was asked for; whatever was not is decided here.

    Attributes:
        name: of the profile.
        path: of the pictures.
        ipc: images per class.
        budget_s: seconds that everything may take.
        row: that the page features, beside those that are always there.
        generate: with a generator: one that knows the classes, else one that is trained.
        fewer: an IPC beyond the smallest class becomes what it has.
        changes: further dotted keys and their values.
    """

    name: str
    path: str
    ipc: tuple[int, ...] = ()
    budget_s: float = 1800.0
    row: str | None = None
    generate: bool | None = None
    fewer: bool = False
    changes: Tree = field(default_factory=dict)


def budget_seconds(text: str) -> float:
    """Seconds of a duration like 30m, 1h30m or 90s; a bare number is minutes.

    Raises:
        ParameterError: anything else, or nothing at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text + "m" * text[-1:].isdigit())
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text + "m" * text[-1:].isdigit() or not total:
        raise ParameterError(f"--budget: found {text!r}, wanted a time like 30m, 1h30m or 90s")
    return total


def images_per_class(first: int | None, words: list[str]) -> tuple[int, ...]:
    """The numbers behind ``--ipc``, of which the command line sees the first as its value and others as words.

    Raises:
        ParameterError: a word that is no number, or numbers without the option.
    """
    for word in words:
        if first is None or not (word.isascii() and word.isdigit() and int(word)):
            raise ParameterError(f"{word}: found beside NAME and FOLDER, wanted numbers behind --ipc, or key=value")
    return () if first is None else (first, *map(int, words))


class Beginning:
    """The decisions for one folder.

    Raises:
        DataError: pictures that no run can use. ParameterError: wishes that do not go with them, or do not fit.
    """

    def __init__(self, root: Path, wish: Wish) -> None:
        self.root, self.wish = root, wish
        self.place = f"{profiles.FOLDER}/{wish.name}.yaml"
        base = profiles.resolved(profiles.merged(root, FAMILY), FAMILY)
        self.machine = Ladder.machine(base)
        own = {key.removeprefix("data."): value for key, value in wish.changes.items() if key.startswith("data.")}
        self.folder: Folder = pictures.look(wish.path, base.data.overridden(own, "data"), base.seed, own.get("source"))
        self.pretrained = self._pretrained()
        self.trains = bool(wish.generate) and not self.pretrained
        self.ipc, self.clipped = self._ipc()
        self.methods, self.featured = self._methods()
        self.plans = self._plans()

    def _pretrained(self) -> bool:
        """Whether a generator that exists knows all classes: on a GPU by itself, elsewhere if it is asked for."""
        known = all(name in imagenet() for name in self.folder.names)
        if self.wish.generate is None:
            return known and self.machine.device.type == "cuda"
        return known and self.wish.generate

    def _ipc(self) -> tuple[list[int], str]:
        """Images per class, and what was lowered to the smallest class."""
        name, most = self.folder.smallest
        asked = sorted(set(self.wish.ipc or IPC))
        beyond = [ipc for ipc in asked if ipc > most]
        if beyond and self.wish.ipc and not self.wish.fewer:
            raise ParameterError(
                f"--ipc: found {beyond[-1]}, class {name} has {most} pictures to train on; --fewer takes {most} of "
                "every class instead"
            )
        said = f"{beyond[-1]} became {most}: class {name} has no more to train on" if beyond else ""
        return sorted({min(ipc, most) for ipc in asked}), said

    def _methods(self) -> tuple[list[str], str]:
        """The rows that are compared, and the one that is featured."""
        rows = GENERATED_ROWS if self.pretrained or self.trains else REAL_ROWS
        row = self.wish.row or "ims3_plus"
        tree = profiles.merged(self.root, self.family)
        if row not in (known := [*tree["methods"], *tree["refinements"]]):
            raise ParameterError(f"--row: found {row!r}; known: {', '.join(sorted(known))}")
        tree["eval"]["methods"] = [row]
        if not (self.pretrained or self.trains) and profiles.resolved(tree, FAMILY).needs_generator:
            raise ParameterError(
                f"--row: {row} wants a generator, and none is known for these classes; --generate trains one, or leave "
                "--row out for real pictures, chosen and refined"
            )
        return [*rows, *([row] if row not in rows else [])], row

    @property
    def family(self) -> str:
        """The layer that the profile extends."""
        return PRETRAINED if self.pretrained else FAMILY

    def layer(self, rung: Rung) -> Tree:
        """The profile of a rung."""
        seen = self.folder
        tree: Tree = {
            "data": {**seen.section, "channels": 1 if seen.grey and not self.pretrained else 3},
            "eval": {"methods": self.methods, "ipc": self.ipc}, "report": {"tsne_method": self.featured},
        }  # fmt: skip
        if self.pretrained:
            tree["data"] |= {"classes": None, "skip_unreadable": True}
            tree["eval"] |= {"students": ["resnetap10"], "protocols": ["steps"], "draws": 3}
        elif seen.grey and seen.short <= 32:
            tree["augment"] = {"flip": 0.0}  # more often letters and digits than things without a left and a right
        profiles.merge(tree, rung.layer(), self.place)
        return tree

    def parameters(self, rung: Rung) -> Params:
        """The checked parameters of a rung."""
        tree = profiles.merged(self.root, self.family)
        profiles.merge(tree, self.layer(rung), self.place)
        return profiles.resolved(tree, self.wish.name, self.wish.changes)

    def _plans(self) -> list[Planned]:
        """The largest settings that fit, after the next larger ones if there are any."""
        wish, gpu = self.wish, self.machine.device.type == "cuda"
        steps = rungs(
            self.folder.short,
            side=wish.changes.get("data.side"),
            gpu=gpu,
            trains=self.trains,
            pretrained=self.pretrained,
        )
        ladder = Ladder(self.parameters, self.root, self.folder.size, decode_s=self.folder.decode_s)
        plans = list(ladder.fitting(steps, wish.budget_s, memory.available()))
        plan = plans[-1]
        if plan.memory > memory.available():
            raise ParameterError(
                f"memory: the smallest run wants {plan.memory / 1e9:.1f} GB, {memory.available() / 1e9:.1f} are free"
            )
        if plan.seconds > wish.budget_s:
            alone = plan.prepare_s > wish.budget_s
            what = f"reading the pictures alone takes about {duration(plan.prepare_s)}, " if alone else ""
            raise ParameterError(
                f"--budget: {duration(wish.budget_s)} are too few: {what}the smallest run here ({plan.rung}) "
                f"{duration(plan.seconds)}; the smallest budget that would do is {enough(plan.seconds)}"
            )
        return plans

    @property
    def plan(self) -> Planned:
        """What was chosen."""
        return self.plans[-1]

    def text(self) -> str:
        """The profile."""
        size, tree = self.folder.size, {"extends": self.family, **self.layer(self.plan.rung)}
        for key, value in self.wish.changes.items():
            section: Any = tree
            *path, last = key.split(".")
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        count = size.train + size.validation + size.test
        lines = [
            f"# Profile {self.wish.name}: {count:,} pictures of {size.classes} classes, from `ims3 new`.",
            f"# Planned for {duration(self.plan.seconds)} on {self.processor}:",
            f"# {self.plan.rung}.",
        ]
        for section, value in tree.items():
            lines += wrap_flow(f"{section}: {flow(value)}", WIDTH)
        return "\n".join(lines) + "\n"

    @property
    def processor(self) -> str:
        """What computes."""
        return processor(self.machine.device)

    def lines(self) -> list[str]:
        """What was seen, chosen and why, what it costs and what comes next."""
        seen, plan, size = self.folder, self.plan, self.folder.size
        name, fewest = seen.smallest
        rows = f"{', '.join(self.methods)}, and all pictures as the ceiling; {self._why_rows()}"
        ipc = f"{' and '.join(map(str, self.ipc))} images per class" + (f" ({self.clipped})" if self.clipped else "")
        larger = self.plans[0] if len(self.plans) > 1 else None
        return [
            f"saw      {len(seen.names)} classes, {size.train:,} pictures to train on, {size.validation:,} to choose "
            f"settings on, {size.test:,} to test; {seen.short} px {'grey' if seen.grey else 'colour'}, "
            f"{fewest} in the smallest class, {name}",
            *(f"note     {line}" for line in seen.left_out),
            f"machine  {self.processor}, {self.machine}, {plan.rates['train'] / 1e9:,.0f} GFLOP/s in training, "
            f"{memory.available() / 1e9:.0f} GB of memory free",
            f"rows     {rows}",
            f"sets     {ipc}, drawn three times for the spread",
            f"chose    {plan.rung}: the largest settings that fit in {duration(self.wish.budget_s)}",
            *([f"larger   {larger.rung}: --budget {enough(larger.seconds)}"] if larger else []),
            f"cost     about {duration(plan.seconds)}, {plan.memory / 1e9:.1f} GB of memory, {plan.disk / 1e9:.2f} GB "
            "of disk; `ims3 plan` has every stage once `ims3 prepare` has run",
            f"wrote    {self.place}, where every choice is a line, and params.yaml from it",
            "next     dvc repro, then open reports/index.html",
        ]  # fmt: skip

    def _why_rows(self) -> str:
        if self.pretrained:
            return "DiT-XL/2, which is fetched, knows these classes"
        if self.trains:
            return "the generator is trained on these pictures"
        return "of real pictures, chosen and refined: no generator is needed"

    def write(self, *, force: bool) -> None:
        """Writes the profile, and params.yaml as `ims3 use` does.

        Raises:
            ParameterError: params.yaml has changes of somebody's own, unless ``force``; nothing is left behind then.
        """
        path = self.root / self.place
        before = path.read_bytes() if path.is_file() else None
        files.write_bytes(path, self.text().encode())
        try:
            profiles.use(self.root, self.wish.name, [], force=force)
        except BaseException:
            if before is None:
                path.unlink()
            else:
                files.write_bytes(path, before)
            raise


def enough(time_s: float) -> str:
    """The smallest budget, in whole minutes, that would do for a plan of ``time_s`` seconds."""
    from ims3core.planning.rungs import MARGIN

    return f"{int(-(-time_s // (60 * MARGIN)))}m"


def check_name(root: Path, name: str, *, force: bool) -> None:
    """Raises a ParameterError unless a profile can be called ``name`` and none is, or ``force`` replaces it."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ParameterError(f"NAME: found {name!r}, wanted small letters, digits, - and _")
    if (root / profiles.FOLDER / f"{name}.yaml").exists() and not force:
        raise ParameterError(f"profiles/{name}.yaml: exists already; another name, or --force to write it anew")
