"""The cutting room: probe, conform, extend, stitch, sound, captions.

FFmpeg arguments and PyAV stand only here.
"""
