"""Who is who: people matched across experts in every frame, then linked over time into tracks."""

from __future__ import annotations

from dataengine.tracking.actor import rank
from dataengine.tracking.association import associate
from dataengine.tracking.carry import next_boxes
from dataengine.tracking.oks import OksTracker

__all__ = ["OksTracker", "associate", "next_boxes", "rank"]
