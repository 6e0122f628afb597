"""Components are configuration; `load(device)` returns a session that owns what runs.

A component is a frozen dataclass. Its fields are its whole configuration: two components with equal
fields are equal, pickle, and enter fingerprints as they are. Nothing that runs is kept in a component.

A session is what `load` returns. It owns the network, the lock or the process, and is closed once:

    with experts.create("vitpose").load("cuda") as session:
        poses = session.predict(frames, boxes)

Each kind of component has a base class. What it does not have to say has a default here, so that
callers ask the base class and never whether a method is there.
"""

from dataengine.core.component.configuration import Component
from dataengine.core.component.features import Features, FeaturesSession
from dataengine.core.component.filters import Filter
from dataengine.core.component.poses import ClipFrames, Detector, DetectorSession, Expert, ExpertSession, FaceDetector
from dataengine.core.component.sequences import Fusion, Lifter, LifterSession, Tracker
from dataengine.core.component.sessions import SESSIONS, Batcher, Session, SessionCache
from dataengine.core.component.sources import Source
from dataengine.core.component.students import Student, StudentSession

__all__ = [
    "SESSIONS",
    "Batcher",
    "ClipFrames",
    "Component",
    "Detector",
    "DetectorSession",
    "Expert",
    "ExpertSession",
    "FaceDetector",
    "Features",
    "FeaturesSession",
    "Filter",
    "Fusion",
    "Lifter",
    "LifterSession",
    "Session",
    "SessionCache",
    "Source",
    "Student",
    "StudentSession",
    "Tracker",
]
