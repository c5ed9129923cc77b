"""Which file a table means by a name: with or without folders and ending, or as on another machine."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from ims3core.ingest.classes import normal
from ims3core.ingest.folders import is_picture
from ims3core.ingest.listing import roles_in


def clean(cell: object) -> str:
    """A name as it is compared: slashes forward, accents composed, nothing around it."""
    return normal(str(cell).strip().replace("\\", "/"))


class PictureNames:
    """Finds files by the names that a table has for them."""

    def __init__(self, files: Sequence[str], *, folder: str, role: str | None) -> None:
        """``files`` are paths relative to the data; ``folder`` is that of the table, ``role`` the split it is for."""
        self._files = [normal(file) for file in files]
        self._folder, self._role = folder, role
        self._by_stem: dict[str, list[int]] = {}
        self._by_number: dict[int, list[int]] = {}  # of names that begin with zeros, which spreadsheets take away
        for number, file in enumerate(self._files):
            stem = _stem(posixpath.basename(file)).lower()
            self._by_stem.setdefault(stem, []).append(number)
            if stem.startswith("0") and stem.isdecimal():
                self._by_number.setdefault(int(stem), []).append(number)

    def __len__(self) -> int:
        return len(self._files)

    def find(self, name: str) -> list[int]:
        """The files that a cleaned name can mean; more than one where it does not say."""
        last = posixpath.basename(name).lower()
        found = {*self._by_stem.get(last, ()), *self._by_stem.get(_stem(last), ())}
        found = {n for n in found if is_picture(self._files[n])} or found
        if not found:
            return self._numbered(int(name)) if name.isdecimal() else []
        bare = re.sub(r"^(\.\.?/)+", "", posixpath.normpath(name)).lstrip("/")
        whole = {posixpath.normpath(posixpath.join(self._folder, name)), bare}
        if exact := [n for n in found if self._files[n] in whole or _stem(self._files[n]) in whole]:
            return exact
        fitting = [n for n in found if self._fits(n, bare, str)] or [n for n in found if self._fits(n, bare, str.lower)]
        near = [n for n in fitting if self._files[n].startswith(f"{self._folder}/")] if self._folder else []
        return near or fitting

    def by_number(self, name: str) -> bool:
        """Whether a name is that of no file, but can be a number whose zeros at the front are lost."""
        return name.isdecimal() and name not in self._by_stem

    def _numbered(self, number: int) -> list[int]:
        """The files of no other split whose name is a number with zeros before it."""
        found = [n for n in self._by_number.get(number, ()) if self._role is None or self.role(n) in (None, self._role)]
        return [n for n in found if is_picture(self._files[n])] or found

    def _fits(self, number: int, name: str, spelled: Callable[[str], str]) -> bool:
        """Whether a file of no other split ends in this name."""
        file, name = spelled(f"/{self._files[number]}"), spelled(f"/{name}")
        if not (file.endswith(name) or _stem(file).endswith(name)):
            return False
        return self._role is None or self.role(number) in (None, self._role)

    def role(self, number: int) -> str | None:
        """The split whose folder a file is in."""
        return role_of_folders(self._files[number])


def role_of_folders(file: str) -> str | None:
    """The role of the first folder of a path that is named like a split."""
    for folder in PurePosixPath(file).parts[:-1]:
        if found := roles_in(folder):
            return min(found)
    return None


def droppable(names: Sequence[str], root: str) -> list[str]:
    """What may stand before all names because the table was made elsewhere, shortest first, beginning with nothing.

    A folder of a split is not dropped, unless the data are that folder: its pictures are not those of another split.
    """
    common = posixpath.dirname(posixpath.commonprefix([f"{posixpath.dirname(name)}/" for name in names]))
    fronts, parts = [""], PurePosixPath(common).parts
    for end in range(1, len(parts) + 1):
        role = roles_in(parts[end - 1])
        if role and parts[end - 1] != root:
            break
        fronts.append("/".join(parts[:end]).replace("//", "/") + ("" if parts[:end] == ("/",) else "/"))
    return fronts


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
