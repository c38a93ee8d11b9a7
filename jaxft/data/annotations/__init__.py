"""Spans of texts, as annotation tools export them, in one form: rows with a `text` and its `spans`.

`spans` are a list of {"start": ..., "end": ..., "label": ...}, in characters (Unicode code points), `end` being after
the last one; None for a text that nobody annotated.
"""
