"""From the picture into space: joints in pixels over time to root-relative joints in metres.

A lifter takes one person's sequence in any layout with a head point and the twelve body joints:

    from dataengine.core import registry
    with registry.create("lifters", "temporal").load() as session:
        lifted = session.lift(keypoints, scores, "posetics17", (1920, 1080))
    lifted.keypoints3d           # (T, V, 3) metres, x right, y down, z away from the camera, mid_hip at 0
    lifted.reprojection_error    # (T,) pixels

Steps of every lifter, each in a file of its own: `inputs` (what the network is given), the network, `bones` (lengths
that do not change), `projection` (how well the result fits the picture). `errors` compares poses in space.
"""
