"""A package outside of dataengine that adds one component of every kind, each in one file and one line.

The lines are in `entry_points.txt`; a package of your own has them in its pyproject.toml:

    [project.entry-points."dataengine.experts"]
    bright_block = "outside.expert:BrightBlock"

`tests/test_adding.py` installs the package and sees every component work to the end.
"""
