"""How long, and in how much memory, S3 selects one of 50 groups for each of 1000 classes.

Run it with ``python benchmarks/selection_scale.py``. The centroids are synthetic: classes spread over the sphere,
groups scattered around the class. Time is that of ``select_groups`` alone, from float32 centroids to a choice that a
whole sweep leaves unchanged; memory is the peak of the process, imports and input included. With ``--images`` it is
``s3_image`` that chooses 10 of as many images per class, with the kernel and bandwidth of the profiles.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time

import torch

from ims3core.axes.selections import Candidates
from ims3core.axes.selections.s3_image import S3Image
from ims3core.base.seeds import generator
from ims3core.s3.bounds import gap
from ims3core.s3.objective import MAX_MATRIX_BYTES, make_instance
from ims3core.s3.search import select_groups


def make_centroids(classes: int, groups: int, dim: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit group centroids (classes, groups, dim) around unit real centroids (classes, dim)."""
    noise = generator(0, "selection-scale")
    real = torch.nn.functional.normalize(torch.randn(classes, dim, generator=noise), dim=-1)
    around = torch.randn(classes, groups, dim, generator=noise).mul_(spread / dim**0.5).add_(real[:, None])
    around /= around.norm(dim=-1, keepdim=True)
    return around, real


def choose_images(images: int, args: argparse.Namespace) -> None:
    """One choice by ``s3_image``, its lower bound included."""
    candidates, real = make_centroids(args.classes, images, args.dim, args.spread)
    names = [str(n) for n in range(args.classes)]
    pool = Candidates(
        list(candidates), names, real, images=candidates.__getitem__, real=lambda: list(candidates[:, :100])
    )
    selection = S3Image(
        alpha=1.0, beta=args.beta, eps=1e-6, normalisation=args.normalisation, kernel="gaussian", bandwidth=1.0,
        frequencies=2048, max_sweeps=50,
    )  # fmt: skip
    begun = time.perf_counter()
    choice = selection.select(pool, ipc=10, seed=0, draw=0)
    took, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.classes} classes x {images} images x {args.dim}, IPC 10, beta {args.beta}: {took:.1f} s, {peak:.0f} MiB"
    )
    print(choice.report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=50)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--spread", type=float, default=0.5, help="length of the scatter around a class")
    parser.add_argument("--normalisation", choices=["paper", "official"], default="paper")
    parser.add_argument("--start", choices=["nearest", "random"], default="nearest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--max-matrix-mib", type=int, default=MAX_MATRIX_BYTES // 2**20)
    parser.add_argument("--bound", action="store_true", help="also bound the objective from below (slow)")
    parser.add_argument("--images", type=int, help="choose images one by one out of so many per class")
    parser.add_argument("--beta", type=float, default=0.9, help="separation, with --images")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.images:
        choose_images(args.images, args)
        return
    group_centroids, real_centroids = make_centroids(args.classes, args.groups, args.dim, args.spread)
    weights = {"alpha": 0.4, "beta": 0.9, "eps": 1e-6, "normalisation": args.normalisation}
    memory = {"max_matrix_bytes": args.max_matrix_mib * 2**20}
    print(f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, {args.repetitions} repetitions")
    seconds = []
    for _ in range(args.repetitions):
        begun = time.perf_counter()
        problem = make_instance(group_centroids, real_centroids, **weights)
        selection = select_groups(
            problem, **memory, start=args.start, restarts=1, max_sweeps=100,
            generator=generator(0, "selection-scale-start"),
        )  # fmt: skip
        seconds.append(time.perf_counter() - begun)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(seconds)
    print(f"sizes      {args.classes} classes x {args.groups} groups x {args.dim}, engine {selection.engine}")
    print(f"seconds    {median:.2f} (median; {min(seconds):.2f} to {max(seconds):.2f}), first {seconds[0]:.2f}")
    print(f"sweeps     {selection.sweeps}, converged {selection.converged}, {median / selection.sweeps:.2f} s a sweep")
    print(f"objective  {selection.objective.total:.6f} from {selection.start_objectives[0]:.6f}")
    print(f"peak RSS   {peak_mib:.0f} MiB")
    if args.bound:
        begun = time.perf_counter()
        report = gap(selection, problem, **memory)
        print(f"bound      {report['bound']:.6f} ({report['bound_kind']}), gap {report['gap']:.6f}")
        print(f"           {time.perf_counter() - begun:.2f} s")


if __name__ == "__main__":
    main()
