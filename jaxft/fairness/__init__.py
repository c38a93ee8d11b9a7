"""Whether the model treats groups alike: counterfactual rows and what they change."""
