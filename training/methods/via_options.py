"""Groups of options of ViA: the weights of its losses, and what its contrast compares."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.core.errors import TrainingError


@dataclass(frozen=True)
class RetargetingLosses:
    """Weights of the losses; 0 leaves one out.

    Attributes:
        own: of each clip made from its own two codes.
        cross: of each motion on the body of its partner against the truth, which only clips in space have.
        cycle: of each clip made from the codes of what was carried to the partner and back.
        triplet: of the codes of what was made: nearer to those that it was made of than to those of the other clip.
        velocity: of differences between frames, of everything that is made and compared.
        contrast: of generated views of a motion among other motions.
    """

    own: float = 1.0
    cross: float = 1.0
    cycle: float = 1.0
    triplet: float = 1.0
    velocity: float = 1.0
    contrast: float = 1.0

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise TrainingError(f"losses {vars(self)}; allowed: 0 and more")

    def retargets(self, supervised: bool) -> bool:
        """Whether anything is learnt from what the decoder makes."""
        return bool(self.own or self.cycle or self.triplet or (self.cross and supervised))


@dataclass(frozen=True)
class ViewContrast:
    """What a motion is contrasted with.

    Attributes:
        positives: views of each motion on the bodies of so many other clips, 0 to 6: generated, or truths.
        random_view: whether a second random view of the clip itself is a positive, too, as in MoCo.
        temperature: divides cosines.
    """

    positives: int = 1
    random_view: bool = True
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.positives <= 6 or self.positives + self.random_view < 1 or self.temperature <= 0:
            raise TrainingError(
                f"contrast positives {self.positives}, random_view {str(self.random_view).lower()}, temperature "
                f"{self.temperature}; allowed: 0 to 6, at least one positive in all, above 0"
            )
