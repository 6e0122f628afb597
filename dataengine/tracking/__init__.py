"""Tracking: people are matched across experts in every frame, then linked over time into tracks."""

from __future__ import annotations

from dataengine.tracking.association import associate
from dataengine.tracking.box_propagation import next_boxes
from dataengine.tracking.oks import OksTracker
from dataengine.tracking.ranking import rank

__all__ = ["OksTracker", "associate", "next_boxes", "rank"]
