"""`python -m tools.synthetic_experts`: render material, train the networks, fit calibrations, ship weights."""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

FIRST_SEED = 10_000_000
"""Training seeds start here; benchmarks and tests use smaller ones."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.synthetic_experts", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    render = verbs.add_parser("render", help="render training material into a folder")
    render.add_argument("folder", type=Path)
    render.add_argument("--parts", type=int, default=4)
    render.add_argument("--clips", type=int, default=2000, help="clips of six frames a part")
    render.add_argument("--workers", type=int, default=2)
    learn = verbs.add_parser("train", help="train one network for some minutes")
    learn.add_argument("net", choices=("detector", "topdown", "bottomup", "regression"))
    learn.add_argument("folder", type=Path)
    learn.add_argument("out", type=Path)
    learn.add_argument("--minutes", type=float, required=True)
    learn.add_argument("--start", type=Path)
    learn.add_argument("--device", default="cpu")
    learn.add_argument("--batch", type=int, default=32)
    learn.add_argument("--rate", type=float, default=2e-3)
    learn.add_argument("--seed", type=int, default=0)
    learn.add_argument("--loaders", type=int, default=1)
    ship = verbs.add_parser("ship", help="export checkpoints, fit their calibrations, and put them into the package")
    ship.add_argument("checkpoints", type=Path, help="folder with detector.pt, topdown.pt, bottomup.pt, regression.pt")
    ship.add_argument("--clips", type=int, default=160, help="clips to fit the calibrations on")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    {"render": _render, "train": _train, "ship": _ship}[given.verb](given)
    return 0


def _render(given: argparse.Namespace) -> None:
    from tools.synthetic_experts.data import render_part

    with ProcessPoolExecutor(given.workers) as pool:
        list(
            pool.map(
                render_part,
                [given.folder / f"part{k:03d}" for k in range(given.parts)],
                [FIRST_SEED + k * given.clips for k in range(given.parts)],
                [given.clips] * given.parts,
            )
        )


def _train(given: argparse.Namespace) -> None:
    from tools.synthetic_experts.train import Training, train

    settings = Training(given.net, given.minutes, given.batch, given.rate, given.seed, given.device, given.loaders)
    train(settings, given.folder, given.out, given.start, logging.getLogger(__name__).info)


def _ship(given: argparse.Namespace) -> None:
    from tools.synthetic_experts.ship import ship

    ship(given.checkpoints, given.clips, logging.getLogger(__name__).info)


if __name__ == "__main__":
    raise SystemExit(main())
