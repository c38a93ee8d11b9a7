"""Parts of texts: graphemes, answer spans, entities."""
