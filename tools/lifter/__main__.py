"""Makes the network of the built-in lifter.

    python -m tools.lifter collect --folder FOLDER --captures captures.npz
    python -m tools.lifter train --captures captures.npz --checkpoint FILE [--minutes 11]      again until it is done
    python -m tools.lifter ship --captures captures.npz --checkpoint FILE

`FOLDER` holds files of the CMU Graphics Lab Motion Capture Database (see `tools.lifter.captures`).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from dataengine.lift.temporal import weights_folder
from tools.lifter.material import CAPTURE_FPS, Pool, collect
from tools.lifter.ship import make_network, ship
from tools.lifter.train import Training, from_pool, train


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(prog="python -m tools.lifter", description=__doc__.split("\n")[0])
    parser.add_argument("do", choices=("collect", "train", "ship"))
    parser.add_argument("--folder", type=Path, help="folder of the CMU database, for collect")
    parser.add_argument("--captures", type=Path, help="file that collect writes; none: rendered bodies alone")
    parser.add_argument("--checkpoint", type=Path, default=Path("lifter.pt"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many minutes")
    parser.add_argument("--steps", type=int, default=Training.steps)
    given = parser.parse_args()
    torch.set_num_threads(1)
    training = Training(steps=given.steps)
    if given.do == "collect":
        print(f"{collect(given.folder, given.captures)} motions")
        return
    if given.do == "train":
        pool = Pool.open(given.captures)
        network = train(training, from_pool(pool, training), given.checkpoint, given.minutes)
        print("done" if network is not None else "not over yet: run it again")
        return
    network = make_network(training.channels)
    state = torch.load(given.checkpoint, weights_only=True)
    network.load_state_dict(state["average"])
    pool = Pool.open(given.captures)
    size = ship(
        network,
        weights_folder(),
        {
            "rendered": "bodies and motions of dataengine.rendering",
            "captures": "CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu), free for all uses",
            "capture_motions": len(pool.captures),
            "capture_minutes": round(sum(map(len, pool.captures)) / CAPTURE_FPS / 60, 1),
            **dataclasses.asdict(training),
            "steps_done": state["step"],
        },
    )
    print(f"shipped {size} bytes")


if __name__ == "__main__":
    main()
