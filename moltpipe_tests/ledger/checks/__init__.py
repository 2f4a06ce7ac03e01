"""Each check fails on damage done by hand, and all of them pass on a studio that is in order."""
