"""Which tokens a model's score comes from: four methods, and the page that shows what they find."""
