"""ViA: a network learns what of a motion does not depend on body and view, by carrying motions to other bodies.

Source: Yang et al., View-invariant Skeleton Action Representation Learning via Motion Retargeting, IJCV 2024 (thesis,
4.4 and 4.6). The thesis names the losses and defines none of them; what they are here is written at `ViA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataengine.core.errors import TrainingError
from training.backbones.base import Backbone, read_weights
from training.backbones.joint_channels import DROPOUT, Codes, Retargeter
from training.data.types import SampleTransform
from training.distributed import gather, masked_mean, unit
from training.methods.base import Batch, LossOutput, Method, Projector, ProjectorOptions, View
from training.methods.generator import generator_file, ring, run_facts
from training.methods.lac import positives_info_nce
from training.methods.lac_retarget import CAMERA, MARGIN, CameraOptions, Pairs, RandomCameras, pairs, partners
from training.methods.losses import Form
from training.methods.queue import Queue, QueueOptions
from training.methods.via_options import RetargetingLosses, ViewContrast
from training.methods.view_generator import (
    CleanViews,
    MotionEncoder,
    People,
    TwoCameras,
    ViewGenerator,
    statistics_kept,
)
from training.transforms import bodies
from training.transforms.preprocess import Preprocess

QUEUE = QueueOptions(8192, 0.994, anneal="auto")
PROJECTOR = ProjectorOptions(2048, 128, 2)
GENERATOR = "generator.safetensors"
"""The generator of a finished run, beside its network."""


LOSSES, CONTRAST = RetargetingLosses(), ViewContrast()


class ViA(Method, Retargeter):
    """Retargeting as the pretext task of a network, and contrast over the views that it generates.

    The code of the network is split into a static code, its mean over time on `directions` orthonormal directions, and
    the motion, which is the residual. A decoder makes joints of both. Two clips of a batch are partners: each motion is
    decoded on the body and from the view of the other. Clips in space (`supervised`) have a truth of that, as in
    lac_retarget. Of others only what is consistent is known. The thesis names the losses and defines none; these are
    the definitions here, after Aberman et al. (2019), all mean squared errors over standardised channels. Where a view
    has noise or hides joints, the decoder is asked for all joints without noise:

    - own: each clip from its own codes, against itself
    - cross: each motion on its partner's body, against the truth (supervised)
    - cycle: what was made is encoded again, and each clip is made of the motion of the one and the body of the other;
      against itself
    - triplet, margin 1, of plain codes: the motion code of what was made is nearer to that of its motion than this is
      to that of the partner, and its static code nearer to that of its body
    - velocity: all of the above, of differences between frames
    - contrast: InfoNCE of the mean motion code, after a projector; positives are the motion on other bodies, by a
      momentum encoder, and a second random view of the clip; of clips in space the second view has a camera and bones
      of its own, and its truth on another body is the other positive. Negatives are keys of earlier batches

    `variant = "paper"` contrasts as printed for LAC (equation 4.6), with negatives alone in the denominator.

    Args:
        backbone: the network that learns.
        generator: folder of a finished run of via whose network, static directions and decoder this run begins with.
        supervised: whether clips are in space, seen by random cameras, and truths are compared with.
        axes: coordinates of joints that the network sees of clips in space, 2 or 3.
        directions: K, static directions; fewer than the width of the network.
        dropout: of the decoder.
        variant: "standard", or "paper".
        losses: weights.
        contrast: what a motion is contrasted with.
        queue: of negatives, and the momentum encoder.
        projector: an MLP after the mean motion code, for the contrast.
        camera: random cameras of clips in space.

    Raises:
        TrainingError: an option out of range, or clips that are not in space.
    """

    def __init__(
        self,
        backbone: Backbone,
        generator: str = "",
        supervised: bool = False,
        axes: int = 2,
        directions: int = 32,
        dropout: float = DROPOUT,
        variant: Literal["standard", "paper"] = "standard",
        losses: RetargetingLosses = LOSSES,
        contrast: ViewContrast = CONTRAST,
        queue: QueueOptions = QUEUE,
        projector: ProjectorOptions = PROJECTOR,
        camera: CameraOptions = CAMERA,
    ) -> None:
        super().__init__(backbone, queue.momentum, queue.anneal)
        if not 0 < directions < backbone.width or axes not in (2, 3) or not 0 <= dropout < 1:
            raise TrainingError(
                f"directions {directions}, axes {axes}, dropout {dropout}; allowed: 1 to {backbone.width - 1} "
                "directions (below the width of the network), 2 or 3 axes, a dropout below 1"
            )
        if supervised and backbone.channels != axes:
            raise TrainingError(
                f"via sees {axes} coordinates of clips in space; the network takes {backbone.channels} channels"
            )
        if not losses.retargets(supervised) and not losses.contrast:
            raise TrainingError(f"losses {vars(losses)}: nothing is learnt; set one of own, cycle, triplet, contrast")
        if supervised:
            bodies.tree(backbone.skeleton)
        self.path, self.supervised, self.camera = generator, supervised, camera
        self.losses, self.contrast = losses, contrast
        self.skeleton, self.axes = backbone.skeleton, backbone.channels
        self.form: Form = "paper" if variant == "paper" else "sum"
        self.generator = ViewGenerator(backbone, directions, dropout)
        if not losses.retargets(supervised):
            self.generator.decoder.requires_grad_(False)
        self.encoder, self.key_encoder, self.queue = None, None, None
        if losses.contrast:
            sizes = (backbone.width, projector.hidden, projector.width, projector.layers)
            self.encoder = MotionEncoder(backbone, Projector(*sizes))
            self.key_encoder = self.momentum_copy(self.encoder)
            self.queue = Queue(queue.size, projector.width if projector.layers else backbone.width)

    encoder: MotionEncoder | None
    key_encoder: MotionEncoder | None
    queue: Queue | None

    @classmethod
    def input_channels(cls, options: Mapping[str, Any], channels: int) -> int:
        """Of clips in space the network sees `axes` coordinates."""
        if options.get("supervised") and channels != 3:
            raise TrainingError(
                f"via compares with truths of clips in space; given joints of {channels} coordinates: give motion "
                "capture, write bodies with `dataengine-train example --space`, or set method.supervised to false"
            )
        return int(options.get("axes", 2)) if options.get("supervised") else channels

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The network, and the static directions with the decoder."""
        return {**super().networks, "generator": self.generator}

    def sample_transform(self, preprocess: Preprocess, view: View) -> SampleTransform:
        """A random view of each clip, two for a contrast with a random view; of clips in space joints and a camera.

        Raises:
            TrainingError: another stream than joints, or no such generator.
        """
        if preprocess.stream != "joint" or preprocess.score:
            raise TrainingError("via learns from joints: set preprocess.stream to joint and preprocess.score to false")
        if self.path:
            self.load_run(self.path)
        second = self.encoder is not None and self.contrast.random_view
        if self.supervised:
            return TwoCameras(RandomCameras(preprocess, view, self.camera), second)
        return CleanViews(preprocess, view, second)

    def load_run(self, folder: str | Path) -> None:
        """Take network, static directions and decoder of a finished run of via.

        Raises:
            TrainingError: no such run, or one of other joints or another network.
        """
        file = generator_file(folder, "via_small")
        held, own = run_facts(file).get("skeleton"), self.skeleton
        if held is not None and tuple(held["joints"]) != own.joints:
            raise TrainingError(
                f"{folder} learnt joints of {held['name']!r}, and these clips have {own.name!r}: train both with one "
                "data.skeleton"
            )
        self.backbone.load_weights(read_weights(file), classifier=False, name=str(file))
        beside = file.with_name(GENERATOR)
        if not beside.is_file():
            raise TrainingError(f"{folder}: there is no {GENERATOR}; give a finished run of via")
        state = read_weights(beside)
        wanted = self.generator.state_dict()
        if {key: value.shape for key, value in state.items()} != {key: value.shape for key, value in wanted.items()}:
            raise TrainingError(f"{beside}: its directions or its decoder have other sizes than those of this run")
        self.generator.load_state_dict(state)

    def load_published(self, path: str | Path) -> None:
        """Take a network with a static basis `v` (W, K) beside it, the layout that is left of the published program.

        Raises:
            TrainingError: no such file, or weights of another network.
        """
        state = read_weights(path)
        keys = [key for key in state if key.rsplit(".", 1)[-1] == "v"]
        if len(keys) != 1 or state[keys[0]].shape != self.generator.static.shape:
            found = [f"{key} {tuple(state[key].shape)}" for key in keys]
            raise TrainingError(
                f"{path}: it has the static bases {found}; allowed: one, v {tuple(self.generator.static.shape)}"
            )
        basis = state.pop(keys[0])
        self.backbone.load_weights(state, classifier=False, name=str(path))
        with torch.no_grad():
            self.generator.static.copy_(basis)

    def loss(self, batch: Batch) -> LossOutput:
        """The losses of retargeting, and the contrast."""
        people = self._people(batch)
        given, motion = people.motions(people.joints), people.joints.shape[1]
        if not bool(self.generator.measured):
            self.generator.measure(gather(self.generator.channels_of(people.clean)))
        code = self._code(given)
        moving, static = self.generator.split(code)
        carried = self.generator.decode(moving, static[people.partner], motion)
        made = self._made(carried, people)
        parts = self._retargeting(people, (moving, static), carried, made)
        weights = vars(self.losses)
        terms = [weights[name.split("_")[0]] * value for name, value in parts.items()]
        if self.encoder is not None and self.key_encoder is not None and self.queue is not None:
            keys = self._keys(batch, people, (moving.detach(), static.detach()), made.detach())
            mean = self.generator.without_static(self._mean(code, people))
            parts["contrast"] = self._contrast(mean, keys, batch["index"])
            terms.append(self.losses.contrast * parts["contrast"])
        return LossOutput(torch.stack(terms).sum(), parts, self._mean(moving, people))

    def _people(self, batch: Batch) -> People:
        """The people of a batch; of clips in space the first one, seen by the camera."""
        x: Tensor = batch["motion"]
        if self.supervised:
            made = self._in_space(batch)
            seen, truth = self._centred(made.seen), self._centred(made.truth)
            present = torch.ones(len(seen), dtype=torch.bool, device=x.device)
            return People(seen, seen, present, made.partner, truth, 1)
        count = x.shape[-1]
        joints, clean = (one.permute(0, 4, 2, 3, 1).flatten(0, 1) for one in (x, batch["clean"]))
        partner = partners(len(x), x.device)[:, None] * count + torch.arange(count, device=x.device)
        return People(joints, clean, joints.flatten(1).abs().amax(1) > 0, partner.flatten(), None, count)

    def _in_space(self, batch: Batch, entry: str = "motion", partner: Tensor | None = None) -> Pairs:
        """The clips of a batch, or their second views `key`, as cameras see them, and the truths."""
        joints, prefix = batch[entry].permute(0, 4, 2, 3, 1)[:, 0], "" if entry == "motion" else f"{entry}_"
        return pairs(joints, batch[f"{prefix}camera"], batch[f"{prefix}bones"], self, partner)

    def _turned(self, joints: Tensor) -> Tensor:
        """Joints (N, T, V, C) of a camera as the network takes them, and back: in space y is up, in images down."""
        return joints * joints.new_tensor([1.0, -1.0, 1.0]) if self.axes == 3 else joints

    def _centred(self, joints: Tensor) -> Tensor:
        """Joints (N, T, V, C) of a camera as the network takes them, around 0."""
        return self._turned(joints - joints.mean((1, 2), keepdim=True))

    def _code(self, motion: Tensor) -> Tensor:
        """Codes (R, W, T') of all people of motions (N, C, T, V, M)."""
        people = self.backbone.people_sequence(motion)[:, : motion.shape[-1]]
        return people.flatten(0, 1)

    def _made(self, values: Tensor, people: People) -> Tensor:
        """Joints (R, T, V, C) of standardised channels, where the clip began."""
        origin = bodies.centre(people.clean, self.skeleton)[:, :1, None]
        return self.generator.joints_of(values) + origin

    def _retargeting(self, people: People, codes: Codes, carried: Tensor, made: Tensor) -> dict[str, Tensor]:
        """All losses but the contrast that have a weight; those of velocities begin with `velocity_`."""
        generator, losses, partner, frames = self.generator, self.losses, people.partner, people.joints.shape[1]
        moving, static = codes
        target = generator.standardised(people.clean)
        compared: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        if losses.own:
            compared["own"] = (generator.decode(moving, static, frames), target, people.present)
        if people.truth is not None and losses.cross:
            compared["cross"] = (carried, generator.standardised(people.truth), people.present)
        parts: dict[str, Tensor] = {}
        if losses.cycle or losses.triplet:
            with statistics_kept(self.backbone):
                again, placed = generator.split(self._code(people.motions(made)))
            if losses.cycle:
                compared["cycle"] = (generator.decode(again, placed[partner], frames), target, people.together)
            if losses.triplet:
                flat, moved = moving.flatten(1), again.flatten(1)
                of_motion = _triplet(flat, moved, flat[partner])
                of_static = _triplet(static[partner], placed, static)
                parts["triplet_motion"] = masked_mean(of_motion, people.together)
                parts["triplet_static"] = masked_mean(of_static, people.together)
        for name, (found, wanted, counted) in compared.items():
            parts[name] = masked_mean((found - wanted).square().mean((1, 2)), counted)
            if losses.velocity:
                speeds = found.diff(dim=-1) - wanted.diff(dim=-1)
                parts[f"velocity_{name}"] = masked_mean(speeds.square().mean((1, 2)), counted)
        return parts

    def _mean(self, code: Tensor, people: People) -> Tensor:
        """(N, W): codes (R, W, T'), the mean over time and people."""
        mean: Tensor = code.mean(-1).unflatten(0, (-1, people.people)).mean(1)
        return mean

    @torch.no_grad()
    def _keys(self, batch: Batch, people: People, codes: Codes, made: Tensor) -> Tensor:
        """(N, P, D) unit vectors of the positive keys: views on other bodies, then the random one."""
        assert self.key_encoder is not None
        count, key = self.contrast.positives, batch.get("key")
        views = []
        if people.truth is None:
            views = [people.motions(joints) for joints in self._generated(people, codes, made, count)]
        else:
            if key is not None:
                key = people.motions(self._centred(self._in_space(batch, "key").seen))
            for offset in range(1, count + 1):
                partner = None if offset == 1 else ring(len(made), offset, made.device)
                of_view = self._in_space(batch, "motion" if key is None else "key", partner)
                views.append(people.motions(self._centred(of_view.truth)))
        found = []
        for view in views:
            with statistics_kept(self.key_encoder):
                found.append(self.key_encoder(view, self.generator))
        if key is not None:
            found.append(self.key_encoder(key, self.generator))
        return torch.stack(found, 1)

    def _generated(self, people: People, codes: Codes, made: Tensor, count: int) -> list[Tensor]:
        """Each motion on `count` other bodies, (R, T, V, C) each: `made`, on that of the partner, comes first."""
        moving, static = codes
        shown = [made]
        for offset in range(2, count + 1):
            other = ring(len(made) // people.people, offset, made.device)[:, None] * people.people
            rows = (other + torch.arange(people.people, device=made.device)).flatten()
            shown.append(self._made(self.generator.decode(moving, static[rows], made.shape[1]), people))
        return shown[:count]

    def _contrast(self, motion: Tensor, keys: Tensor, owners: Tensor) -> Tensor:
        """Mean InfoNCE of mean motion codes (N, W); those without a negative do not count."""
        assert self.encoder is not None and self.queue is not None
        excluded = self.queue.not_negative_mask(owners)
        query, negatives = unit(self.encoder.projector(motion)), self.queue.keys.clone()
        each = positives_info_nce(query, keys, negatives, self.contrast.temperature, excluded, self.form)
        self.queue.enqueue(keys[:, -1], owners, torch.full_like(owners, -1))
        return masked_mean(each, (~excluded).any(1))

    def seen(self, motion: Tensor) -> Tensor:
        """A network of two axes sees clips in space from the front."""
        if motion.shape[1] <= self.axes:
            return motion
        joints = motion.permute(0, 4, 2, 3, 1).flatten(0, 1)
        still = joints.new_zeros(len(joints))
        shown: Tensor = bodies.project(joints, still, still, self.axes).unflatten(0, (-1, motion.shape[-1]))
        return shown.permute(0, 4, 2, 3, 1)

    def embed(self, motion: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean motion code (N, W): features of the network without what its static directions hold."""
        return self.generator.without_static(super().embed(self.seen(motion), mask))

    def encode(self, joints: Tensor) -> Codes:
        """Motion (N, W, T') and static (N, K) code of joints (N, T, V, axes) of any size, y down."""
        unit_size = joints / bodies.size(joints, self.skeleton)[:, None, None, None]
        return self.generator.split(self._code(self._centred(unit_size).permute(0, 3, 1, 2)[..., None]))

    def generate(self, motion: Tensor, static: Tensor, frames: int) -> Tensor:
        """Joints (N, frames, V, axes) of about unit size of a motion (N, W, T') and a static code (N, K)."""
        return self._turned(self.generator.joints_of(self.generator.decode(motion, static, frames)))


def _triplet(anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Triplet losses (N,) of margin 1."""
    losses: Tensor = functional.triplet_margin_loss(anchor, near, far, MARGIN, reduction="none")
    return losses
