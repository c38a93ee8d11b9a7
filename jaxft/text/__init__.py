"""Parts of texts: characters as they are seen, spans, entities."""
