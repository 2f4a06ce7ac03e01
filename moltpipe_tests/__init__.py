"""Tests of moltpipe, in the order of the package."""
