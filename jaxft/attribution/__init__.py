"""Attribution of a model's score to the input tokens: four methods, and an HTML page of the results."""
