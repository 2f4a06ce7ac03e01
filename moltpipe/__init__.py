"""moltpipe turns a vote into a published limited series."""
