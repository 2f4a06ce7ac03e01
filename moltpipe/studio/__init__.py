"""The domain in pure Python: voting rules, screenplay model, shot timing, keys.

Nothing here imports anything else of ours, opens a file, a socket or a clock.
"""
