"""Filters: what a clip's poses are measured by, and the thresholds that keep it.

A filter is a frozen dataclass on `dataengine.filters.base.Between`: it adds `measure(sample)`, says
what its value is measured in, and names the reason of `dataengine.core.reasons.REASONS` it rejects with. The numbers behind the
measures are pure functions on arrays in the same file, so that an index can be filled with them a track.
"""
