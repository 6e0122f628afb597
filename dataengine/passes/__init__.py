"""The passes of a build, one file each; `dataengine.passes.base` says what a pass is and how to add one."""

from __future__ import annotations

PASSES: dict[str, str] = {
    "probe": "dataengine.passes.probe:Probe",
    "pose": "dataengine.passes.pose:Pose",
    "imported": "dataengine.passes.imported:Imported",
    "pseudo_labels": "dataengine.passes.pseudo_labels:PseudoLabels",
    "refine": "dataengine.passes.refine:Refine",
    "repose": "dataengine.passes.repose:Repose",
    "lift": "dataengine.passes.lift:Lift",
    "measure": "dataengine.passes.measure:Measure",
    "annotations": "dataengine.passes.annotations:Annotations",
    "spans": "dataengine.passes.spans:Spans",
    "curate": "dataengine.passes.curate:Curate",
    "embed": "dataengine.passes.embed:Embed",
    "label_check": "dataengine.passes.label_check:LabelCheck",
    "pack": "dataengine.passes.pack:Pack",
    "video": "dataengine.passes.video:Video",
    "report": "dataengine.passes.report:Report",
}
"""The built-in passes in the order of a build: name -> "module:class". What other packages add is placed by what it
reads."""
