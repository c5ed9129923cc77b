"""Reads a params.yaml of an earlier version: keys that moved are understood where their meaning is plain."""

from __future__ import annotations

from typing import Any

PROTOCOL = {
    "labels": "hard", "temperature": None, "optimiser": "sgd", "lr_for": {}, "decay_matrices_only": False,
    "warm_statistics": False, "norm": "instance", "side": None, "test_crop": 1.0, "augment": {},
}  # fmt: skip
SAMPLER_KEYS = ("steps", "guidance", "guided_channels")


def updated(tree: dict[str, Any]) -> list[str]:
    """Moves the keys of ``tree``, in place, to where they are now; returns what was moved, "old -> new".

    A key whose new place already says something else keeps the new place's value only where the old one cannot
    be honoured; nothing is guessed.
    """
    moved: list[str] = []

    def table(name: str) -> dict[str, Any]:
        found = tree.get(name)
        return found if isinstance(found, dict) else {}

    candidates, evaluation = table("candidates"), table("eval")
    for key in SAMPLER_KEYS:
        if key in candidates:
            value = candidates.pop(key)
            for sampler in ("ddpm", "ddim"):
                tree.setdefault(sampler, {})[key] = value
            moved.append(f"candidates.{key} -> ddpm.{key}, ddim.{key}")
    for name, row in table("methods").items():
        if isinstance(row, dict) and row.get("labels") == "hard":
            del row["labels"]
            moved.append(f"methods.{name}.labels -> protocols.<name>.labels")
    if "protocol" in evaluation:
        value = evaluation.pop("protocol")
        evaluation.setdefault("protocols", [value])
        if value in evaluation["protocols"]:
            moved.append("eval.protocol -> eval.protocols")
        else:
            evaluation["protocol"] = value  # both, and they differ: refused as unknown
    if "side" in evaluation:
        value = evaluation.pop("side")
        for row in table("protocols").values():
            if isinstance(row, dict) and row.get("side") is None:
                row["side"] = value
        if value is not None:
            moved.append("eval.side -> protocols.<name>.side")
    for row in table("protocols").values():
        if isinstance(row, dict):
            for key, value in PROTOCOL.items():
                row.setdefault(key, value if not isinstance(value, dict) else {})
    if table("generator").get("source") == "pretrained":
        table("generator").setdefault("time_features", "auto")
    if "augment" in tree:
        for key, value in {"patch_shuffle": 1, "randaugment": None}.items():
            table("augment").setdefault(key, value)
    if "im" in tree:
        table("im").setdefault("share", 1.0)
    if "encoder" in tree:
        tree.setdefault("teacher", {"source": "encoder"})
    for row in table("methods").values():
        if isinstance(row, dict):
            row.setdefault("reads", "data/real/classes.json")
    for row in table("pools").values():
        if isinstance(row, dict):
            row.setdefault("guide", "none")
            row.setdefault("sized_by", "candidates.per_class")
    if "pools" in tree and "guides" not in tree:
        tree["guides"] = {"none": {"by": "none", "adaptation": "none"}}
    tree.setdefault("coverage", {"k": 5, "real_images": 10000})
    if "report" in tree:
        table("report").setdefault("gallery_images", 10)
    for name in ("refined", "students"):
        tree.setdefault(name, {})
    return moved
