"""What representations are worth: metrics, probes, intervals, collapse statistics, texts and pictures.

Everything works on arrays: features (N, D), scores (N, K), labels (N,) with -1 for none. Shares are in [0, 1].
"""
