"""Filters: measures of the poses of a clip, and the thresholds that keep the clip.

A filter is a frozen dataclass on `dataengine.filters.base.Between`. It adds `measure(sample)`, says what the value is
measured in, and names the reason that it rejects with. The measures themselves are pure functions on arrays in the same
file, so that the index holds them for every track, too.
"""
