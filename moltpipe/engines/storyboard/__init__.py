"""The storyboard artist: shots and posters drawn with Pillow, from their own words.

Here: what a shot's words mean for a drawing (`vocabulary`, `palette`, `looks`), what is drawn (`sets`, `figures`,
`slate`, `poster`), how it moves (`moves`) and how frames come out (`card`). Not here: encoding (`media.reel`), the
engine (`engines.animatic`). Everything follows from the request: the same request is the same picture.
"""
